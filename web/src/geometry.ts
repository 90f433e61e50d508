// From the blocks that are open to boxes with places: every open block is laid out by itself (see layout.ts), innermost first, and what
// did not change is taken from before.
import { choose, wrap, type Columns, type Room } from "./columns";
import { cut, FONT, MONO, SMALL, width } from "./dom";
import { skips } from "./lanes";
import type { Placed, Point, Request } from "./layout";
import type { Content, Item, Link, Model } from "./model";
import { placed } from "./place";

const HEAD = 34; // height of the title of an open block
const PAD = 16;
const DOT = 9; // a value that comes into an open block, or leaves it
const WIDEST = 280;

/** A box in the picture: of an item, or (`item` null) of a value at the edge of a block. Corner and size are absolute. */
export interface Box {
  id: string;
  item: Item | null;
  port: Content["ports"][number] | null;
  title: string;
  x: number;
  y: number;
  w: number;
  h: number;
  open: boolean;
  depth: number;
  lines: string[];
  boxes: Box[];
  edges: Edge[];
}

export interface Edge {
  link: Link;
  points: Point[];
  label: Point | null;
  text: string;
  full: string;
  wide: number; // pixels of the text
  square: boolean; // goes down a lane
  dots: Point[]; // where it leaves a lane that goes on
}

export interface Look {
  open: ReadonlySet<number>;
  across: boolean;
  scale(item: Item): number; // how large a box is, 0 to 1, by the heat; 0 where size says nothing
  notes(item: Item): string[]; // lines of the cost, and of marks
}

interface Known {
  signature: string;
  placed: Placed;
}

interface Size {
  w: number;
  h: number;
  lines: string[];
  title: string;
}

function closed(item: Item, look: Look): Size {
  const grown = 1 + 0.8 * look.scale(item);
  const title = cut(item.title, WIDEST - 60, FONT);
  const lines = [item.subtitle, ...look.notes(item)].filter((line) => line).map((line) => cut(line, WIDEST - 32, SMALL));
  const badge = item.count > 1 ? width(`× ${item.count}`, FONT) + 22 : 0;
  const widest = Math.max(width(title, FONT) + badge + (item.block ? 16 : 0), ...lines.map((line) => width(line, SMALL)));
  return { w: Math.ceil(Math.max(96, widest + 30) * grown), h: Math.ceil((27 + 15 * lines.length) * grown), lines, title };
}

/** A value at the edge of a block: a box with its name where it has one (of the network, of a block of a program), else a dot. */
function edge(port: Content["ports"][number]): Size {
  if (!port.named) return { w: DOT, h: DOT, lines: [], title: port.title };
  const title = cut(port.title, WIDEST, FONT);
  return { w: Math.ceil(width(title, FONT)) + 28, h: 26, lines: [], title };
}

function labelOf(link: Link, model: Model): { text: string; full: string; wide: number } {
  if (link.when) {
    const text = cut(link.when.text, 230, MONO);
    return { text, full: link.when.full, wide: text ? Math.ceil(width(text, MONO)) + 8 : 0 };
  }
  const texts = [...new Set(link.parts.map((part) => model.type(part.type).axes))];
  const first = cut(texts[0] ?? "", 230, MONO);
  const more = link.parts.reduce((sum, part) => sum + part.n, 0) - 1;
  const text = more > 0 ? `${first}  +${more}` : first;
  return { text, full: texts.join("\n"), wide: text ? Math.ceil(width(text, MONO)) + 8 : 0 };
}

/** Layouts that are known, by block; one per page. */
export class Geometry {
  private known = new Map<number, Known>();
  private columns = new Map<number, Columns>(); // of the network, and of blocks in it that are higher than the screen

  constructor(private model: Model) {}

  /** The boxes of the whole picture, at (0, 0); where a room is given, in the columns that fit it best, else in those of before. */
  async boxes(look: Look, room: Room | null): Promise<Box> {
    const root = this.model.root;
    if (room) this.columns.clear();
    const box = await this.inside(root, look, 0, room);
    shift(box, 0, 0);
    join(box, look.across);
    return box;
  }

  private async inside(item: Item, look: Look, depth: number, room: Room | null): Promise<Box> {
    const { model } = this;
    const { children, links, ports } = model.content(item);
    const boxes: Box[] = [];
    const inner = await Promise.all(children.map((child) => (child.block && look.open.has(child.id) ? this.inside(child, look, depth + 1, room) : null)));
    children.forEach((child, i) => {
      const opened = inner[i];
      if (opened) boxes.push(opened);
      else boxes.push({ id: String(child.id), item: child, port: null, x: 0, y: 0, open: false, depth: depth + 1, boxes: [], edges: [], ...closed(child, look) });
    });
    for (const port of ports) boxes.push({ id: port.id, item: null, port, x: 0, y: 0, open: false, depth: depth + 1, boxes: [], edges: [], ...edge(port) });
    const labels = links.map((link) => labelOf(link, model));
    const ends = links.map((link, i) => ({ from: link.from, to: link.to, lw: labels[i].wide, lh: 14 }));
    const skip = skips(boxes.map((box) => box.id), ends);
    const request: Request = { across: look.across, nodes: boxes.map((box) => ({ id: box.id, w: box.w, h: box.h })), links: ends.filter((_, i) => !skip[i]) };
    const found = await this.layout(item.id, request);
    const laid = found.links.values();
    boxes.forEach((box, i) => {
      box.x = found.nodes[i].x - box.w / 2 + PAD;
      box.y = found.nodes[i].y - box.h / 2 + (depth ? HEAD : 0) + (depth ? 4 : 0);
    });
    const down = depth ? HEAD + 4 : 0;
    const edges = links.map((link, i) => {
      const { points, label } = skip[i] ? { points: [], label: null } : (laid.next().value as Placed["links"][number]);
      const moved = (p: Point) => ({ x: p.x + PAD, y: p.y + down });
      return { link, points: points.map(moved), label: label && moved(label), square: false, dots: [], ...labels[i] };
    });
    const title = cut(item.title, WIDEST, FONT);
    const least = width(title, FONT) + width(item.subtitle, SMALL) + 70 + (item.count > 1 ? 50 : 0);
    const w = Math.max(found.w + 2 * PAD, depth ? Math.min(least, 420) : 0);
    const spare = (w - found.w - 2 * PAD) / 2;
    if (spare > 0) {
      for (const box of boxes) box.x += spare;
      for (const edge of edges) for (const p of edge.label ? [...edge.points, edge.label] : edge.points) p.x += spare;
    }
    const box: Box = { id: String(item.id), item, port: null, title, x: 0, y: 0, w, h: found.h + down + (depth ? PAD : 0), open: true, depth, lines: [item.subtitle], boxes, edges };
    if (room && !look.across && (!depth || box.h > room.h)) this.columns.set(item.id, choose(box, room));
    if (look.across) turn(box);
    wrap(box, this.columns.get(item.id) ?? new Map(), look.across ? 0 : down, look.across);
    if (look.across) turn(box);
    return box;
  }

  private async layout(id: number, request: Request): Promise<Placed> {
    const signature = JSON.stringify(request);
    const before = this.known.get(id);
    if (before?.signature === signature) return before.placed;
    const found = request.nodes.length ? await placed(request) : { w: 80, h: 20, nodes: [], links: [] };
    this.known.set(id, { signature, placed: found });
    return found;
  }
}

/** Swaps right and down, of the box and of what stands in it itself. */
function turn(root: Box): void {
  [root.w, root.h] = [root.h, root.w];
  for (const box of root.boxes) [box.x, box.y, box.w, box.h] = [box.y, box.x, box.h, box.w];
  for (const { points, label, dots } of root.edges) for (const p of label ? [...points, ...dots, label] : [...points, ...dots]) [p.x, p.y] = [p.y, p.x];
}

/** Makes all places absolute. */
function shift(box: Box, x: number, y: number): void {
  const todo: [Box, number, number][] = [[box, x, y]];
  while (todo.length) {
    const [one, dx, dy] = todo.pop() as [Box, number, number];
    one.x += dx;
    one.y += dy;
    for (const inner of one.boxes) todo.push([inner, one.x, one.y]);
    for (const edge of one.edges) {
      for (const p of [...edge.points, ...edge.dots, ...(edge.label ? [edge.label] : [])]) {
        p.x += one.x;
        p.y += one.y;
      }
    }
  }
}

/** Ends of edges at open blocks are put where the value goes on inside. */
function join(box: Box, across: boolean): void {
  const byId = new Map(box.boxes.map((inner) => [inner.id, inner]));
  const dots = (inner: Box | undefined, input: boolean) =>
    inner?.open ? new Map(inner.boxes.filter((one) => one.port?.input === input).flatMap((one) => (one.port as NonNullable<Box["port"]>).ports.map((port) => [port, one] as const))) : null;
  const known = new Map<string, ReturnType<typeof dots>>();
  const dot = (id: string, input: boolean, port: number) => {
    const key = `${id}${input}`;
    if (!known.has(key)) known.set(key, dots(byId.get(id), input));
    return known.get(key)?.get(port);
  };
  for (const edge of box.edges) {
    if (edge.square) continue;
    const { from, to, parts } = edge.link;
    const start = parts.length && dot(from, false, parts[0].port);
    const end = parts.length && dot(to, true, parts[0].into);
    if (start) edge.points.splice(0, 1, ...meet(start, byId.get(from) as Box, across, 1));
    if (end) edge.points.splice(edge.points.length - 1, 1, ...meet(end, byId.get(to) as Box, across, -1).reverse());
  }
  for (const inner of box.boxes) if (inner.open) join(inner, across);
}

/** Where an edge meets the border of an open block, then a point a little further out. */
function meet(dot: Box, block: Box, across: boolean, sign: 1 | -1): Point[] {
  const x = dot.x + dot.w / 2;
  const y = dot.y + dot.h / 2;
  if (across) {
    const border = sign > 0 ? block.x + block.w : block.x;
    return [{ x: border, y }, { x: border + sign * 12, y }];
  }
  const border = sign > 0 ? block.y + block.h : block.y;
  return [{ x, y: border }, { x, y: border + sign * 12 }];
}
