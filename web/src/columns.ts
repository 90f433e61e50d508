// A network is mostly a chain, much higher than a screen: what is high is put in columns, as text is, where few edges are cut.
import type { Box } from "./geometry";
import { Column, isHigh, Wires } from "./lanes";

const GUTTER = 64; // between two columns
const ABOVE = 44; // over a column that goes on: its edges come in there
const HIGH = 7; // between edges that go over columns
const MOST_CUT = 6; // edges from one column to the next
const MOST_COLUMNS = 4;
const WORTH = 1.12; // a column more must make the picture that much larger
const SKIPS_WORTH = 1.4; // and that much where it cuts what goes beside boxes: then the way is long

/** Which column each box is in, by its number; nothing: one column. */
export type Columns = Map<string, number>;

export interface Room {
  w: number;
  h: number;
}

/** Heights between rows of boxes where no box is and few edges pass. */
function gaps(root: Box): number[] {
  const rows = root.boxes.map((box) => [box.y, box.y + box.h]).sort((a, b) => a[0] - b[0]);
  const height = new Map(root.boxes.map((box) => [box.id, box.y]));
  const found: number[] = [];
  let bottom = rows[0]?.[1] ?? 0;
  for (const [top, end] of rows) {
    if (top > bottom) {
      const at = (top + bottom) / 2;
      const passing = new Set(root.edges.filter(({ link }) => (height.get(link.from) as number) < at && (height.get(link.to) as number) > at).map((edge) => edge.link.from));
      if (passing.size <= MOST_CUT) found.push(at);
    }
    bottom = Math.max(bottom, end);
  }
  return found;
}

/** Whether an edge in a lane passes there. */
function skipped(root: Box, at: number): boolean {
  const height = new Map(root.boxes.map((box) => [box.id, box.y]));
  return root.edges.some(({ link, points }) => !points.length && (height.get(link.from) as number) < at && (height.get(link.to) as number) > at);
}

function zoom(root: Box, cuts: number[], room: Room): number {
  const edges = [0, ...cuts, root.h];
  let [w, h] = [0, 0];
  for (let i = 0; i + 1 < edges.length; i++) {
    const inside = root.boxes.filter((box) => box.y >= edges[i] && box.y < edges[i + 1]);
    w += Math.max(0, ...inside.map((box) => box.x + box.w)) - Math.min(...inside.map((box) => box.x)) + 2 * 60 + (i ? GUTTER : 0);
    h = Math.max(h, edges[i + 1] - edges[i] + (i ? ABOVE : 0));
  }
  return Math.min(room.w / w, room.h / h, 1);
}

/** The cuts at some of the allowed heights by which the picture is largest: more than `worth` times as large as by those that are known. */
function larger(root: Box, room: Room, allowed: number[], known: number[], worth: number): number[] {
  let best = known;
  let most = zoom(root, known, room) * worth;
  for (let n = 2; n <= MOST_COLUMNS && allowed.length; n++) {
    const cuts: number[] = [];
    for (let i = 1; i < n; i++) cuts.push(allowed.reduce((a, b) => (Math.abs(b - (root.h * i) / n) < Math.abs(a - (root.h * i) / n) ? b : a)));
    if (new Set(cuts).size < cuts.length) continue;
    const k = zoom(root, cuts, room);
    if (k > most) [best, most] = [cuts, k * WORTH];
  }
  return best;
}

/** Columns by which the picture is largest in the room. */
export function choose(root: Box, room: Room): Columns {
  const allowed = gaps(root);
  const whole = larger(root, room, allowed.filter((at) => !skipped(root, at)), [], WORTH);
  const cuts = larger(root, room, allowed, whole, SKIPS_WORTH);
  return cuts.length ? new Map(root.boxes.map((box) => [box.id, cuts.filter((cut) => box.y > cut).length])) : new Map();
}

/** Moves what is in the second and later columns beside the first, below a title of that height, and leads there what goes beside boxes. */
export function wrap(root: Box, columns: Columns, head: number, across: boolean): void {
  const column = new Map(root.boxes.map((box) => [box.id, columns.get(box.id) ?? 0]));
  const of = (id: string) => column.get(id) as number;
  const wired = root.edges.filter(({ link, points }) => of(link.from) !== of(link.to) || !points.length);
  if (!columns.size && !wired.length) return;
  const plain = root.edges.filter((edge) => !wired.includes(edge));
  const count = Math.max(0, ...columns.values()) + 1;
  const inside = Array.from({ length: count }, (_, i) => ({ boxes: root.boxes.filter((box) => of(box.id) === i), edges: plain.filter(({ link }) => of(link.from) === i) }));
  const column_ = (i: number) => {
    const found = new Column(inside[i].boxes);
    for (const edge of inside[i].edges) found.edge(edge, across);
    return found;
  };
  const shift = (i: number, dx: number, dy: number) => {
    for (const box of inside[i].boxes) [box.x, box.y] = [box.x + dx, box.y + dy];
    for (const { points, label } of inside[i].edges) for (const p of label ? [...points, label] : points) [p.x, p.y] = [p.x + dx, p.y + dy];
  };
  const left = column_(0).left;
  const high = [...new Set(wired.filter(({ link }) => isHigh(of(link.from), of(link.to))).map(({ link }) => link.from))];
  const above = ABOVE + HIGH * Math.max(0, high.length - 1);
  for (let i = 1; i < count; i++) shift(i, 0, head + above - column_(i).top);
  const wires = new Wires(wired, of, root.boxes, inside.map((_, i) => column_(i)), new Map(high.map((id, i) => [id, head + above - 30 - HIGH * i])), across);
  let x = left;
  for (let i = 0; i < count; i++) {
    shift(i, x - column_(i).left, 0);
    const placed = column_(i);
    wires.place(i, placed);
    x = Math.max(placed.right + GUTTER, placed.end + GUTTER / 2);
  }
  wires.lead(plain);
  const points = root.edges.flatMap((edge) => edge.points);
  root.w = Math.max(...root.boxes.map((box) => box.x + box.w), ...points.map((p) => p.x), ...root.edges.map(({ label, wide }) => (label ? label.x + wide / 2 : 0))) + left;
  root.h = Math.max(...root.boxes.map((box) => box.y + box.h), ...points.map((p) => p.y)) + (head ? 16 : 4);
}
