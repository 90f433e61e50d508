// Draws the boxes that are in sight as SVG. An element is kept as long as what it shows is the same, so that panning only adds and removes.
import { s } from "./dom";
import type { Box, Edge } from "./geometry";
import type { Item } from "./model";
import type { Viewport } from "./viewport";

/** What colours say of an item, and what a screen reader says. */
export interface Paint {
  heat: number | null; // 0 to 1; null: not counted
  less: boolean; // a difference below 0
  classes: string;
  label: string;
}

export interface Actions {
  paint(item: Item): Paint;
  selected(): Item | null;
  click(item: Item, head: boolean): void;
  focus(item: Item): void;
  key(event: KeyboardEvent, box: Box): void;
  nothing(): void;
}

const SMALL_FRAME = 26; // pixels: what is inside of smaller ones isn't drawn

function curve(points: Edge["points"]): string {
  const p = points.map(({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`);
  let d = `M${p[0]}`;
  for (let i = 1; i < points.length - 1; i++) {
    const [a, b] = [points[i], points[i + 1]];
    const end = i === points.length - 2 ? p[i + 1] : `${((a.x + b.x) / 2).toFixed(1)} ${((a.y + b.y) / 2).toFixed(1)}`;
    d += `Q${p[i]} ${end}`;
  }
  return points.length === 2 ? `${d}L${p[1]}` : d;
}

/** Straight lines with round corners. */
function square(points: Edge["points"]): string {
  const p = points.filter((one, i) => !i || Math.hypot(one.x - points[i - 1].x, one.y - points[i - 1].y) > 0.5);
  let d = `M${p[0].x.toFixed(1)} ${p[0].y.toFixed(1)}`;
  for (let i = 1; i < p.length - 1; i++) {
    const [a, b, c] = [p[i - 1], p[i], p[i + 1]];
    const [before, after] = [Math.hypot(a.x - b.x, a.y - b.y), Math.hypot(c.x - b.x, c.y - b.y)];
    const r = Math.min(7, before / 2, after / 2);
    const near = (q: Edge["points"][number], length: number) => `${(b.x + ((q.x - b.x) * r) / length).toFixed(1)} ${(b.y + ((q.y - b.y) * r) / length).toFixed(1)}`;
    d += `L${near(a, before)}Q${b.x.toFixed(1)} ${b.y.toFixed(1)} ${near(c, after)}`;
  }
  const last = p[p.length - 1];
  return `${d}L${last.x.toFixed(1)} ${last.y.toFixed(1)}`;
}

interface Drawn {
  element: SVGGElement;
  signature: string;
}

export class Scene {
  readonly svg: SVGSVGElement;
  private world: SVGGElement;
  private frames = s("g", { role: "none" });
  private edges = s("g", { "aria-hidden": "true" });
  private labels = s("g", { "aria-hidden": "true" }); // over all edges: no line goes through what is written
  private boxes = s("g", { role: "none" });
  private drawn = new Map<string, Drawn>();
  root: Box | null = null;
  viewport!: Viewport;
  private waiting = false;

  constructor(private actions: Actions, label: string) {
    const arrow = (id: string) =>
      s("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" }, s("path", { d: "M0 0.5 L8 4 L0 7.5 z" }));
    const hatch = s("pattern", { id: "hatch", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("rect", { width: 2.2, height: 7 }));
    this.world = s("g", { role: "none" }, this.frames, this.edges, this.labels, this.boxes);
    this.svg = s("svg", { class: "diagram", role: "tree", "aria-label": label }, s("defs", {}, arrow("arrow"), arrow("arrow-on"), hatch), this.world);
    this.svg.addEventListener("click", (event) => {
      if (event.target === this.svg && !this.viewport.moved) this.actions.nothing();
    });
  }

  show(root: Box): void {
    this.root = root;
    this.draw();
  }

  /** Draws soon, once for all that happens before the next frame. */
  later(): void {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  find(id: string): Box | null {
    const todo = this.root ? [this.root] : [];
    while (todo.length) {
      const box = todo.pop() as Box;
      if (box.id === id) return box;
      todo.push(...box.boxes);
    }
    return null;
  }

  /** All boxes of items, whether in sight or not. */
  all(): Box[] {
    const found: Box[] = [];
    const todo = this.root ? [...this.root.boxes] : [];
    while (todo.length) {
      const box = todo.pop() as Box;
      if (box.item) found.push(box);
      todo.push(...box.boxes);
    }
    return found;
  }

  focus(item: Item): void {
    this.draw();
    (this.drawn.get(`b${item.id}`)?.element as SVGElement | undefined)?.focus({ preventScroll: true });
  }

  draw(): void {
    if (!this.root) return;
    const { x, y, k } = this.viewport.view;
    this.world.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)}) scale(${k.toFixed(4)})`);
    this.svg.classList.toggle("far", k < 0.4);
    this.svg.classList.toggle("farther", k < 0.16);
    const { w, h } = this.viewport.size;
    const margin = 120 / k;
    const sight = { x: -x / k - margin, y: -y / k - margin, r: (w - x) / k + margin, b: (h - y) / k + margin };
    const seen = new Set<string>();
    const focused = document.activeElement instanceof SVGElement ? document.activeElement.getAttribute("data-id") : null;
    const chosen = this.actions.selected();
    let first: string | null = null;
    const inside = (ax: number, ay: number, bx: number, by: number) => ax < sight.r && bx > sight.x && ay < sight.b && by > sight.y;
    const todo: Box[] = [this.root];
    const order: Box[] = [];
    while (todo.length) {
      const box = todo.pop() as Box;
      for (const edge of box.edges) this.edge(box, edge, inside, seen, chosen);
      for (const inner of box.boxes) {
        if (!inside(inner.x, inner.y, inner.x + inner.w, inner.y + inner.h)) continue;
        order.push(inner);
        if (inner.open && inner.w * k > SMALL_FRAME) todo.push(inner);
      }
    }
    for (const box of order) {
      const key = `b${box.id}`;
      seen.add(key);
      if (box.item && first === null) first = key;
      const paint = box.item ? this.actions.paint(box.item) : null;
      const on = box.item !== null && box.item === chosen;
      const signature = `${box.x},${box.y},${box.w},${box.h},${box.open},${on},${box.title},${box.lines.join("|")},${paint?.heat},${paint?.less},${paint?.classes},${paint?.label}`;
      const known = this.drawn.get(key);
      if (known?.signature === signature) continue;
      const element = box.item ? this.box(box, box.item, paint as Paint, on) : this.port(box);
      if (known) known.element.remove();
      (box.open ? this.frames : this.boxes).appendChild(element);
      this.drawn.set(key, { element, signature });
    }
    for (const [key, { element }] of this.drawn) {
      if (seen.has(key)) continue;
      element.remove();
      this.drawn.delete(key);
    }
    // Frames are drawn from the outermost inwards.
    const deep = [...this.frames.children].sort((a, b) => Number(a.getAttribute("aria-level")) - Number(b.getAttribute("aria-level")));
    if (deep.some((element, i) => element !== this.frames.children[i])) this.frames.append(...deep);
    this.stops(chosen && this.drawn.has(`b${chosen.id}`) ? `b${chosen.id}` : first);
    if (focused && document.activeElement?.getAttribute("data-id") !== focused) {
      (this.drawn.get(`b${focused}`)?.element as SVGElement | undefined)?.focus({ preventScroll: true });
    }
  }

  /** One box can be reached by Tab, all others by arrows from it. */
  private stops(key: string | null): void {
    for (const [one, { element }] of this.drawn) if (element.hasAttribute("role")) element.setAttribute("tabindex", one === key ? "0" : "-1");
  }

  private edge(box: Box, edge: Edge, inside: (ax: number, ay: number, bx: number, by: number) => boolean, seen: Set<string>, chosen: Item | null): void {
    const xs = edge.points.map((p) => p.x);
    const ys = edge.points.map((p) => p.y);
    if (!inside(Math.min(...xs), Math.min(...ys), Math.max(...xs, edge.label?.x ?? -1e9) + 100, Math.max(...ys))) return;
    const key = `e${box.id}:${edge.link.from}>${edge.link.to}${edge.link.when?.text ?? ""}${edge.link.side ?? ""}`;
    const on = chosen !== null && (edge.link.from === String(chosen.id) || edge.link.to === String(chosen.id));
    const d = edge.square ? square(edge.points) : curve(edge.points);
    const only = edge.link.side ?? (["a", "b"] as const).find((side) => edge.link.parts.length && edge.link.parts.every((part) => part.side === side));
    const classes = `edge${on ? " on" : ""}${only ? ` only-${only}` : ""}${edge.link.when ? " flow" : ""}`;
    this.keep(this.edges, key, `${d}${on}`, seen, () => s("g", { class: classes },
      s("path", { d, "marker-end": on ? "url(#arrow-on)" : "url(#arrow)" }),
      edge.dots.map((p) => s("circle", { cx: p.x, cy: p.y, r: 3 }))));
    const { label, text, full, wide } = edge;
    if (!label || !text) return;
    this.keep(this.labels, `${key} text`, `${label.x},${label.y},${on},${text}`, seen, () => s("g", { class: classes },
      s("rect", { x: label.x - wide / 2, y: label.y - 7, width: wide, height: 15, rx: 4 }),
      s("text", { x: label.x, y: label.y + 4, "text-anchor": "middle" }, s("title", {}, full), text)));
  }

  /** Draws what isn't there yet as it is to be. */
  private keep(layer: SVGGElement, key: string, signature: string, seen: Set<string>, make: () => SVGGElement): void {
    seen.add(key);
    const known = this.drawn.get(key);
    if (known?.signature === signature) return;
    known?.element.remove();
    const element = make();
    layer.appendChild(element);
    this.drawn.set(key, { element, signature });
  }

  private port(box: Box): SVGGElement {
    const { port } = box;
    if (!port?.named) {
      return s("g", { class: `port${port?.next ? " next" : ""}` }, s("title", {}, port?.next ? `${box.title}: one feeds the next` : box.title),
        s("circle", { cx: box.x + box.w / 2, cy: box.y + box.h / 2, r: box.w / 2 }));
    }
    return s("g", { class: "end", transform: `translate(${box.x} ${box.y})` },
      s("rect", { width: box.w, height: box.h, rx: box.h / 2 }),
      s("text", { x: box.w / 2, y: box.h / 2 + 4.5, "text-anchor": "middle" }, box.title));
  }

  private box(box: Box, item: Item, paint: Paint, on: boolean): SVGGElement {
    const element = s("g", {
      class: `box k-${item.kind} ${paint.classes}${box.open ? " open" : ""}${on ? " on" : ""}${item.count > 1 ? " many" : ""}`,
      transform: `translate(${box.x} ${box.y})`, role: "treeitem", tabindex: -1, "data-id": item.id, "data-path": item.path,
      "aria-level": box.depth, "aria-selected": String(on), "aria-expanded": item.block ? String(box.open) : null,
      click: (event: MouseEvent) => {
        event.stopPropagation();
        if (!this.viewport.moved) this.actions.click(item, !box.open || event.offsetY < 0 || this.head(event, box));
      },
      focus: () => this.actions.focus(item),
      keydown: (event: KeyboardEvent) => this.actions.key(event, box),
    });
    element.style.setProperty("--heat", `${((paint.heat ?? 0) * 100).toFixed(1)}%`);
    element.append(s("title", {}, paint.label));
    const { w, h } = box;
    if (item.count > 1 && !box.open) for (const d of [8, 4]) element.append(s("rect", { class: "behind", x: d, y: d, width: w, height: h, rx: 7 }));
    element.append(s("rect", { class: "body", width: w, height: h, rx: box.open ? 10 : 7 }));
    if (paint.heat === null) element.append(s("rect", { class: "uncounted", width: w, height: h, rx: 7 }));
    if (box.open) this.frame(element, box, item);
    else this.inner(element, box, item);
    return element;
  }

  private head(event: MouseEvent, box: Box): boolean {
    const { y, k } = this.viewport.view;
    return (event.clientY - this.svg.getBoundingClientRect().top - y) / k - box.y < 34;
  }

  private frame(element: SVGGElement, box: Box, item: Item): void {
    element.append(
      s("path", { class: "strip", d: `M0 34V10A10 10 0 0 1 10 0H${box.w - 10}A10 10 0 0 1 ${box.w} 10V34Z` }),
      s("path", { class: "sign", d: "M14 15l5 5l5-5" }),
      s("text", { x: 32, y: 22, class: "title" }, box.title, box.lines[0] && s("tspan", { class: "line", dx: 8 }, box.lines[0])));
    if (item.count > 1) element.append(s("text", { class: "badge", x: box.w - 14, y: 22, "text-anchor": "end" }, `× ${item.count}`));
  }

  private inner(element: SVGGElement, box: Box, item: Item): void {
    const { w, h } = box;
    const lines = box.lines.length;
    const top = h / 2 - (15 * lines) / 2 + 5;
    element.append(s("path", { class: "strip", d: `M5 0H7V${h}H7A7 7 0 0 1 0 ${h - 7}V7A7 7 0 0 1 7 0Z` }));
    element.append(s("text", { x: 16, y: top, class: "title" }, box.title));
    box.lines.forEach((line, i) => element.append(s("text", { x: 16, y: top + 16 + 15 * i, class: "line" }, line)));
    if (item.count > 1) element.append(s("text", { class: "badge", x: w - 10, y: top, "text-anchor": "end" }, `× ${item.count}`));
    else if (item.raw.differs) element.append(s("text", { class: "badge", x: w - 12, y: top, "text-anchor": "end" }, "≠"));
    else if (item.block) element.append(s("path", { class: "sign", d: `M${w - 18} ${top - 8}l4 4l-4 4` }));
  }
}
