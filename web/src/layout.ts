// Places the boxes of one block. Every open block is laid out by itself, innermost first, and is one box of a known size for the block
// around it: opening a block then changes that block and those around it, and nothing beside it is placed anew.
import { graphlib, layout as dagre } from "@dagrejs/dagre";

export interface Sized {
  id: string;
  w: number;
  h: number;
}

/** From one box to another; `lw` and `lh` are the size of the label (0: none). */
export interface Link {
  from: string;
  to: string;
  lw: number;
  lh: number;
}

export interface Request {
  across: boolean; // left to right, not top to bottom
  nodes: Sized[];
  links: Link[];
}

export interface Point {
  x: number;
  y: number;
}

/** Centres of the boxes and points of the links, from the top left corner (0, 0) of the block. */
export interface Placed {
  w: number;
  h: number;
  nodes: Point[];
  links: { points: Point[]; label: Point | null }[];
}

export function place(request: Request): Placed {
  const graph = new graphlib.Graph({ multigraph: true });
  graph.setGraph({
    rankdir: request.across ? "LR" : "TB",
    nodesep: 24,
    edgesep: 14,
    ranksep: request.across ? 50 : 22,
    ranker: request.nodes.length > 400 ? "longest-path" : "network-simplex",
  });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const node of request.nodes) graph.setNode(node.id, { width: node.w, height: node.h });
  request.links.forEach((link, i) => {
    graph.setEdge(link.from, link.to, { width: link.lw, height: link.lh, labelpos: "c" }, String(i));
  });
  dagre(graph, { disableOptimalOrderHeuristic: request.nodes.length > 400 });
  const nodes = request.nodes.map((node) => {
    const at = graph.node(node.id) as Point;
    return { x: at.x, y: at.y };
  });
  const links = request.links.map((link, i) => {
    const edge = graph.edge({ v: link.from, w: link.to, name: String(i) }) as { points: Point[]; x?: number; y?: number };
    const points = edge.points.map((p) => ({ x: p.x, y: p.y }));
    return { points, label: link.lw && edge.x !== undefined ? { x: edge.x, y: edge.y as number } : null };
  });
  const size = graph.graph() as { width?: number; height?: number };
  return { w: Math.max(size.width ?? 0, 0), h: Math.max(size.height ?? 0, 0), nodes, links };
}
