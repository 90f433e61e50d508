// Areas by a cost: what is inside of what, and how much of the whole. The squares are d3-hierarchy's.
import { hierarchy, treemap, type HierarchyRectangularNode } from "d3-hierarchy";
import { cut, h, replace, s, SMALL, width } from "./dom";
import { percent } from "./numbers";
import type { Store } from "./state";
import { opened, type Leaf } from "./walk";

export class Treemap {
  readonly element = h("div", { class: "plot" });

  constructor(private store: Store) {}

  show(): void {
    const { store } = this;
    const measure = store.measure();
    const metric = measure.additive ? measure : store.metrics[0];
    const w = Math.max(300, this.element.clientWidth);
    const hgt = Math.max(120, this.element.clientHeight - 4);
    const data = opened(store.model, store.costs, metric, Math.min(300, Math.floor((w * hgt) / 2500)));
    if (!data.children.length) {
      replace(this.element, h("p", { class: "small" }, `${metric.name}: nothing is counted.`));
      return;
    }
    const root = hierarchy<Leaf>(data).sum((leaf) => (leaf.children.length ? 0 : leaf.value)).sort((a, b) => (b.value ?? 0) - (a.value ?? 0));
    const tree = treemap<Leaf>().size([w, hgt]).paddingInner(2).paddingOuter(3).paddingTop((node) => (node.depth ? 17 : 0)).round(true)(root);
    const svg = s("svg", { width: w, height: hgt, role: "group", "aria-label": `Treemap of ${metric.name}` });
    for (const node of tree.descendants().slice(1)) svg.append(this.cell(node, metric.show(node.data.value), (node.value ?? 0) / (root.value || 1)));
    replace(this.element, svg);
  }

  private cell(node: HierarchyRectangularNode<Leaf>, value: string, share: number): SVGGElement {
    const { store } = this;
    const { item } = node.data;
    const [w, hgt] = [node.x1 - node.x0, node.y1 - node.y0];
    const on = store.selected === item;
    const name = `${item.title}: ${value}, ${percent(share)}`;
    const inner = !node.children;
    const g = s("g", { class: `cell k-${item.kind}${on ? " on" : ""}${inner ? " leaf" : ""}`, transform: `translate(${node.x0} ${node.y0})`, role: "button", "aria-pressed": String(on), tabindex: share > 0.02 || on ? 0 : -1,
      click: (event: Event) => {
        event.stopPropagation();
        store.reveal(item);
      },
      keydown: (event: KeyboardEvent) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        store.reveal(item);
      } },
      s("title", {}, name), s("rect", { width: Math.max(0, w), height: Math.max(0, hgt), rx: 3 }));
    if (w > 34 && hgt > 15) g.append(s("text", { x: 5, y: 12 }, cut(item.count > 1 ? `${item.title} × ${item.count}` : item.title, w - 8, SMALL)));
    if (inner && w > 44 && hgt > 32) g.append(s("text", { x: 5, y: 26, class: "dim" }, width(`${value} · ${percent(share)}`, SMALL) < w - 8 ? `${value} · ${percent(share)}` : percent(share)));
    return g;
  }
}
