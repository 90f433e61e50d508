// A network is mostly a chain, much higher than a screen: what is high is put in columns, as text is, where few edges are cut.
import type { Box, Edge } from "./geometry";
import type { Point } from "./layout";

const GUTTER = 64; // between two columns
const ABOVE = 44; // over a column that goes on: its edges come in there
const MOST_CUT = 2; // edges from one column to the next
const MOST_COLUMNS = 4;
const WORTH = 1.12; // a column more must make the picture that much larger

/** Which column each box is in, by its number; nothing: one column. */
export type Columns = Map<string, number>;

export interface Room {
  w: number;
  h: number;
}

/** Heights between rows of boxes where no box is and few edges pass. */
function gaps(root: Box): number[] {
  const rows = root.boxes.map((box) => [box.y, box.y + box.h]).sort((a, b) => a[0] - b[0]);
  const found: number[] = [];
  let bottom = rows[0]?.[1] ?? 0;
  for (const [top, end] of rows) {
    if (top > bottom) {
      const at = (top + bottom) / 2;
      const passing = new Set(root.edges.filter(({ points }) => points[0].y < at && points[points.length - 1].y > at).map((edge) => edge.link.from));
      if (passing.size <= MOST_CUT) found.push(at);
    }
    bottom = Math.max(bottom, end);
  }
  return found;
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

/** Columns by which the picture is largest in the room. */
export function choose(root: Box, room: Room): Columns {
  const allowed = gaps(root);
  let best: number[] = [];
  let most = zoom(root, [], room);
  for (let n = 2; n <= MOST_COLUMNS && allowed.length; n++) {
    const cuts: number[] = [];
    for (let i = 1; i < n; i++) cuts.push(allowed.reduce((a, b) => (Math.abs(b - (root.h * i) / n) < Math.abs(a - (root.h * i) / n) ? b : a)));
    if (new Set(cuts).size < cuts.length) continue;
    const k = zoom(root, cuts, room);
    if (k > most * WORTH) [best, most] = [cuts, k];
  }
  return best.length ? new Map(root.boxes.map((box) => [box.id, best.filter((cut) => box.y > cut).length])) : new Map();
}

/** Moves what is in the second and later columns beside the first, below a title of that height. */
export function wrap(root: Box, columns: Columns, head: number): void {
  if (!columns.size) return;
  const count = Math.max(...columns.values()) + 1;
  const at = Array.from({ length: count }, (_, i) => {
    const boxes = root.boxes.filter((box) => (columns.get(box.id) ?? 0) === i);
    return { top: Math.min(...boxes.map((box) => box.y)), left: Infinity, right: -Infinity, bottom: 0, dx: 0, dy: 0 };
  });
  const column = new Map(root.boxes.map((box) => [box.id, columns.get(box.id) ?? 0]));
  const widen = (i: number, x: number, half: number) => {
    at[i].left = Math.min(at[i].left, x - half);
    at[i].right = Math.max(at[i].right, x + half);
  };
  for (const box of root.boxes) widen(column.get(box.id) as number, box.x + box.w / 2, box.w / 2);
  for (const edge of root.edges) {
    const [from, to] = [column.get(edge.link.from) as number, column.get(edge.link.to) as number];
    if (from !== to) continue;
    for (const point of edge.points) widen(from, point.x, 2);
    if (edge.label) widen(from, edge.label.x, edge.wide / 2);
  }
  let x = at[0].left;
  at.forEach((one, i) => {
    one.dx = x - one.left;
    one.dy = i ? head + ABOVE - one.top : 0;
    x += one.right - one.left + GUTTER;
  });
  const gutter = (i: number) => at[i].right + at[i].dx + GUTTER / 2;
  for (const box of root.boxes) {
    const { dx, dy } = at[column.get(box.id) as number];
    box.x += dx;
    box.y += dy;
  }
  for (const edge of root.edges) move(edge, column, at, gutter, head);
  root.w = x - GUTTER + at[0].left;
  root.h = Math.max(...root.boxes.map((box) => box.y + box.h), ...root.edges.flatMap((edge) => edge.points.map((point) => point.y))) + (head ? 16 : 4);
}

function move(edge: Edge, column: Map<string, number>, at: { dx: number; dy: number }[], gutter: (i: number) => number, head: number): void {
  const [from, to] = [column.get(edge.link.from) as number, column.get(edge.link.to) as number];
  const shift = (point: Point, i: number) => ({ x: point.x + at[i].dx, y: point.y + at[i].dy });
  if (from === to) {
    edge.points = edge.points.map((point) => shift(point, from));
    edge.label = edge.label && shift(edge.label, from);
    return;
  }
  const start = shift(edge.points[0], from);
  const end = shift(edge.points[edge.points.length - 1], to);
  const turn = gutter(to - 1);
  const over = Math.min(end.y - 18, head + 14);
  edge.points = [start, { x: start.x, y: start.y + 20 }, { x: turn, y: start.y + 20 }, { x: turn, y: over }, { x: end.x, y: over }, end];
  edge.label = edge.label && { x: end.x, y: end.y - 22 };
}
