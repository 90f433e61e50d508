// Values that skip boxes go beside the column, as wires do in a circuit diagram: out at the side of a box, down a lane of their own, and in
// at the side of each that takes them. What is laid out then is short, and stays the column that it is.
import type { Box, Edge } from "./geometry";
import type { Link, Point } from "./layout";

const FAR = 3; // rows that an edge goes down at least to be in a lane; 2 where several leave or enter one box
const MOST = 400; // boxes of a block, beyond which nobody follows lanes
const APART = 12; // between two lanes
const BESIDE = 16; // between a lane and what is in the column
const GAP = 10; // over a row and below it, where there is a way between rows

/** Which links skip boxes: there is a longer way between the same two, `FAR` rows long. */
export function skips(ids: string[], links: Link[]): boolean[] {
  const none = links.map(() => false);
  if (ids.length > MOST || links.length > 5 * MOST) return none;
  const after = new Map<string, string[]>(ids.map((id) => [id, []]));
  const waits = new Map<string, number>(ids.map((id) => [id, 0]));
  for (const { from, to } of links) {
    after.get(from)?.push(to);
    waits.set(to, (waits.get(to) ?? 0) + 1);
  }
  const rank = new Map<string, number>();
  const ready = ids.filter((id) => !waits.get(id));
  for (const id of ready) rank.set(id, 0);
  for (let i = 0; i < ready.length; i++) {
    for (const to of after.get(ready[i]) ?? []) {
      rank.set(to, Math.max(rank.get(to) ?? 0, (rank.get(ready[i]) as number) + 1));
      waits.set(to, (waits.get(to) as number) - 1);
      if (!waits.get(to)) ready.push(to);
    }
  }
  if (ready.length < ids.length) return none; // a circle
  const rows = ({ from, to }: Link) => (rank.get(to) as number) - (rank.get(from) as number);
  const far = (link: Link) => rows(link) > 1;
  const around = ({ from, to }: Link) => {
    const todo = (after.get(from) ?? []).filter((id) => id !== to);
    const seen = new Set(todo);
    while (todo.length) {
      for (const next of after.get(todo.pop() as string) ?? []) {
        if (next === to) return true;
        if (!seen.has(next) && (rank.get(next) as number) < (rank.get(to) as number)) {
          seen.add(next);
          todo.push(next);
        }
      }
    }
    return false;
  };
  const found = links.map((link) => far(link) && around(link));
  const [leave, enter] = [new Map<string, number>(), new Map<string, number>()];
  links.forEach(({ from, to }, i) => {
    if (!found[i]) return;
    leave.set(from, (leave.get(from) ?? 0) + 1);
    enter.set(to, (enter.get(to) ?? 0) + 1);
  });
  return links.map((link, i) => found[i] && (rows(link) >= FAR || (leave.get(link.from) as number) > 1 || (enter.get(link.to) as number) > 1));
}

/** How far the cards behind a box that is repeated stand out. */
const cards = (box: Box) => (box.item && box.item.count > 1 && !box.open ? 8 : 0);

/** The boxes of one column, and what is to be known to go beside them. */
export class Column {
  right = -Infinity;
  left = Infinity;
  top = Infinity;
  private solid: { x: number; top: number; bottom: number }[] = [];
  private lanes: { x: number; top: number; bottom: number }[] = [];

  constructor(readonly boxes: Box[]) {
    for (const box of boxes) {
      this.top = Math.min(this.top, box.y);
      this.widen(box.x, box.x + box.w + cards(box), box.y, box.y + box.h);
    }
  }

  /** Something besides boxes that is there. */
  widen(left: number, right: number, top: number, bottom: number): void {
    this.left = Math.min(this.left, left);
    this.right = Math.max(this.right, right);
    this.solid.push({ x: right, top, bottom });
  }

  edge(edge: Edge, across: boolean): void {
    for (let i = 0; i + 1 < edge.points.length; i++) {
      const [a, b] = [edge.points[i], edge.points[i + 1]];
      this.widen(Math.min(a.x, b.x), Math.max(a.x, b.x), Math.min(a.y, b.y), Math.max(a.y, b.y));
    }
    const [w, h] = across ? [7, edge.wide / 2] : [edge.wide / 2, 7];
    if (edge.label) this.widen(edge.label.x - w, edge.label.x + w, edge.label.y - h, edge.label.y + h);
  }

  /** The boxes beside one, on the left or on the right. */
  private beside(box: Box, sign: 1 | -1): boolean {
    return this.boxes.some((one) => one !== box && one.y < box.y + box.h && one.y + one.h > box.y && (one.x - box.x) * sign > 0);
  }

  private row(box: Box): { top: number; bottom: number } {
    const row = this.boxes.filter((one) => one.y < box.y + box.h && one.y + one.h > box.y);
    return { top: Math.min(...row.map((one) => one.y)), bottom: Math.max(...row.map((one) => one.y + one.h)) };
  }

  /** From the box to where its lanes are reached: at its side, or, where others are beside it, below its row. */
  leave(box: Box, dot: number | null): Point[] {
    if (dot === null && !this.beside(box, 1)) return [{ x: box.x + box.w + cards(box), y: box.y + box.h * (box.item ? 0.7 : 0.5) }];
    const x = dot ?? box.x + box.w / 2 + Math.min(10, box.w / 4);
    const y = this.row(box).bottom + GAP;
    return [{ x, y: box.y + box.h }, { x, y }];
  }

  /** From a lane on one side of the column into the box. */
  enter(box: Box, dot: number | null, sign: 1 | -1): Point[] {
    const at = box.y + box.h * (box.item ? 0.3 : 0.5);
    if (dot === null && box.y > this.top && !this.beside(box, sign)) return [{ x: sign > 0 ? box.x + box.w + cards(box) : box.x, y: at }];
    const x = dot ?? box.x + box.w / 2;
    const y = this.row(box).top - (box.y > this.top ? GAP : 3 * GAP);
    return [{ x, y }, { x, y: box.y }];
  }

  /** The x of a new lane on the right that reaches from one height to another, as near as there is room. */
  lane(top: number, bottom: number): number {
    const over = (one: { top: number; bottom: number }) => one.top <= bottom + 3 && one.bottom >= top - 3;
    let x = Math.max(...this.solid.filter(over).map((one) => one.x), this.left) + BESIDE;
    const others = this.lanes.filter(over).sort((a, b) => a.x - b.x);
    for (const one of others) if (Math.abs(one.x - x) < APART) x = one.x + APART;
    this.lanes.push({ x, top, bottom });
    return x;
  }

  /** The right of it all. */
  get end(): number {
    return Math.max(this.right, ...this.lanes.map((one) => one.x));
  }
}

/** A lane: all that one box gives and that goes down the right of one column. */
interface Trunk {
  top: number;
  bottom: number;
  x: number;
  ends: number[]; // heights at which something joins it or leaves it
}

/** Whether an edge between two columns goes over others. */
export const isHigh = (a: number, b: number) => b > a + 1 || b < a;

/** The edges that go down lanes, of their own column or to another. */
export class Wires {
  private trunks = new Map<string, Trunk>();
  private byId: Map<string, Box>;

  constructor(private edges: Edge[], private of: (id: string) => number, boxes: Box[], private columns: Column[], private over: Map<string, number>, private across: boolean) {
    this.byId = new Map(boxes.map((box) => [box.id, box]));
    for (const edge of edges) {
      const [a, b] = [of(edge.link.from), of(edge.link.to)];
      const [start, end] = [this.start(edge), this.end(edge)];
      const [y, to] = [start[start.length - 1].y, end[0].y];
      const high = isHigh(a, b) ? (over.get(edge.link.from) as number) : null;
      this.reach(edge, a, y, high ?? to);
      if (high !== null) this.reach(edge, b - 1, high, to);
    }
  }

  private key(edge: Edge, gutter: number): string {
    return `${gutter}:${edge.link.from}`;
  }

  private reach(edge: Edge, gutter: number, from: number, to: number): void {
    const key = this.key(edge, gutter);
    const trunk = this.trunks.get(key) ?? { top: Infinity, bottom: -Infinity, x: 0, ends: [] };
    trunk.ends.push(from, to);
    trunk.top = Math.min(trunk.top, from, to);
    trunk.bottom = Math.max(trunk.bottom, from, to);
    this.trunks.set(key, trunk);
  }

  /** Where a value stands at the border of an open block, along it; null of others. */
  private dot(box: Box, input: boolean, port: number): number | null {
    if (!box.open) return null;
    const found = box.boxes.find((one) => one.port?.input === input && one.port.ports.includes(port));
    if (!found) return box.x + box.w / 2;
    return box.x + (this.across ? found.y + found.h / 2 : found.x + found.w / 2);
  }

  private start({ link }: Edge): Point[] {
    const box = this.byId.get(link.from) as Box;
    return this.columns[this.of(link.from)].leave(box, this.dot(box, false, link.parts[0]?.port ?? -1));
  }

  private end({ link }: Edge): Point[] {
    const box = this.byId.get(link.to) as Box;
    return this.columns[this.of(link.to)].enter(box, this.dot(box, true, link.parts[0]?.into ?? -1), this.of(link.from) === this.of(link.to) ? 1 : -1);
  }

  /** Gives the lanes right of a column their places, the shortest the nearest; the column stands where it stays. */
  place(i: number, column: Column): void {
    this.columns[i] = column;
    const own = [...this.trunks].filter(([key]) => key.startsWith(`${i}:`)).map(([, trunk]) => trunk);
    for (const trunk of own.sort((a, b) => a.bottom - a.top - (b.bottom - b.top))) trunk.x = column.lane(trunk.top, trunk.bottom);
  }

  /** Whether what an edge carries can be written there: on no box, and on nothing that is written already. */
  private free(edge: Edge, { x, y }: Point, written: Edge[]): boolean {
    const meets = (ax: number, ay: number, w: number, h: number) => {
      const [wide, high] = this.across ? [14, edge.wide] : [edge.wide, 14];
      return x - wide / 2 < ax + w && x + wide / 2 > ax && y - high / 2 < ay + h && y + high / 2 > ay;
    };
    const text = ({ label, wide }: Edge) => {
      const [w, h] = this.across ? [14, wide] : [wide, 14];
      return label !== null && meets(label.x - w / 2, label.y - h / 2, w, h);
    };
    return ![...this.byId.values()].some((box) => meets(box.x, box.y, box.w, box.h)) && !written.some(text);
  }

  /** Makes the ways; what they carry is written where no other edge of the same value says it, and there is room. */
  lead(plain: Edge[]): void {
    const written = plain.filter((edge) => edge.label);
    const said = new Set(plain.filter((edge) => edge.label).map(({ link }) => `${link.from}:${link.parts[0]?.port}`));
    for (const edge of this.edges) {
      const { link } = edge;
      const [a, b] = [this.of(link.from), this.of(link.to)];
      const first = this.trunks.get(this.key(edge, a)) as Trunk;
      const over = this.over.get(link.from) as number;
      const second = isHigh(a, b) ? this.trunks.get(this.key(edge, b - 1)) : undefined;
      const [start, end] = [this.start(edge), this.end(edge)];
      const [out, into] = [start[start.length - 1], end[0]];
      const between = second ? [{ x: first.x, y: out.y }, { x: first.x, y: over }, { x: second.x, y: over }, { x: second.x, y: into.y }] : [{ x: first.x, y: out.y }, { x: first.x, y: into.y }];
      edge.points = [...start, ...between, ...end];
      edge.square = true;
      const joins = (trunk: Trunk, y: number) => trunk.ends.filter((one) => one !== y).some((one) => one < y) && trunk.ends.some((one) => one > y);
      edge.dots = [joins(first, into.y) && !second ? { x: first.x, y: into.y } : null, second && joins(second, into.y) ? { x: second.x, y: into.y } : null].filter((p) => p !== null);
      const key = `${link.from}:${link.parts[0]?.port}`;
      edge.label = null;
      if (said.has(key) && a === b) continue;
      const last = end[end.length - 1];
      const beside = this.across ? { x: out.x - 9, y: out.y + 16 + edge.wide / 2 } : { x: out.x + 6 + edge.wide / 2, y: start.length > 1 ? out.y : out.y - 9 };
      const onLane = this.across ? { x: first.x, y: out.y + 16 + edge.wide / 2 } : { x: first.x + 6 + edge.wide / 2, y: out.y + 12 };
      const places = end.length > 1 && a !== b ? [{ x: last.x, y: last.y - 15 }] : said.has(key) ? [] : [beside, onLane];
      edge.label = places.find((at) => this.free(edge, at, written)) ?? null;
      if (edge.label) written.push(edge);
      said.add(key);
    }
  }
}
