// Memory that is alive while the network runs, step by step, and what makes the peak.
import { h, replace, s } from "./dom";
import type { Live } from "./costs";
import { percent, quantity } from "./numbers";
import type { Store } from "./state";

const LEFT = 62;
const BOTTOM = 20;

export class Timeline {
  readonly element = h("div", { class: "plot timeline" });
  private step = -1;

  constructor(private store: Store) {}

  show(): void {
    const sides = this.store.model.compared ? ([0, 1] as const) : ([0] as const);
    const parts = sides.map((side) => this.one(side)).filter((part): part is HTMLElement => !!part);
    replace(this.element, parts.length ? parts : h("p", { class: "small" }, "Nothing is known of memory here."));
  }

  /** Selects the op of a step, in the repetition that it is of. */
  private go(live: Live, side: 0 | 1, step: number): void {
    const at = Math.max(0, Math.min(live.bytes.length - 1, step));
    this.step = at;
    const memory = this.store.model.data.networks[side].memory;
    const { item, instances } = this.store.model.opAt(memory?.order ? memory.order[at] : at);
    for (const [around, k] of instances) this.store.setInstance(around, k);
    this.store.reveal(item);
  }

  private one(side: 0 | 1): HTMLElement | null {
    const { model, costs, selected } = this.store;
    const live = costs.live(side);
    if (!live?.bytes.length) return null;
    const w = Math.max(260, Math.min(this.element.clientWidth - 20, 2400) - (this.element.clientWidth > 900 ? 330 : 0));
    const steps = live.bytes.length;
    const height = Math.max(110, Math.min(420, (this.element.clientHeight || 150) / (model.compared ? 2 : 1) - 8));
    const most = live.peak || 1;
    const x = (step: number) => LEFT + ((w - LEFT - 8) * (step + 0.5)) / steps;
    const y = (bytes: number) => 8 + (height - BOTTOM - 8) * (1 - bytes / most);
    const columns = Math.min(steps, Math.max(1, w - LEFT - 8));
    let d = `M${x(0)} ${y(0)}`;
    for (let c = 0; c < columns; c++) {
      const [from, to] = [Math.floor((c * steps) / columns), Math.max(Math.floor((c * steps) / columns) + 1, Math.floor(((c + 1) * steps) / columns))];
      let high = 0;
      for (let i = from; i < to; i++) high = Math.max(high, live.bytes[i]);
      d += `L${x(from).toFixed(1)} ${y(high).toFixed(1)}`;
    }
    const marks: SVGElement[] = [0, 0.5, 1].map((part) => s("g", { class: "tick" }, s("line", { x1: LEFT, x2: w - 8, y1: y(part * most), y2: y(part * most) }), s("text", { x: LEFT - 6, y: y(part * most) + 4, "text-anchor": "end" }, quantity(part * most, "B"))));
    if (selected?.parent) {
      const range = model.range(selected);
      let [low, high] = [Infinity, -1];
      for (let op = range.op; op < range.op + range.ops; op++) {
        const step = live.stepOf[op];
        if (step >= 0) [low, high] = [Math.min(low, step), Math.max(high, step)];
      }
      if (high >= 0) marks.push(s("rect", { class: "chosen", x: x(low - 0.5), width: Math.max(2, x(high + 0.5) - x(low - 0.5)), y: 8, height: height - BOTTOM - 8 }));
    }
    const now = selected && !selected.block ? live.stepOf[model.range(selected).op] : this.step;
    const at = now >= 0 ? now : live.at;
    const says = (step: number) => {
      const memory = model.data.networks[side].memory;
      return `step ${step + 1} of ${steps}, ${model.opAt(memory?.order ? memory.order[step] : step).item.title}: ${quantity(live.bytes[step], "B")} alive`;
    };
    const svg = s("svg", { width: w, height, role: "slider", tabindex: 0, "aria-label": `Live memory${model.compared ? ` of ${side ? "B" : "A"}` : ""}`, "aria-valuemin": 0, "aria-valuemax": steps - 1, "aria-valuenow": at, "aria-valuetext": says(at), "data-id": `timeline${side}`,
      click: (event: MouseEvent) => this.go(live, side, Math.floor(((event.clientX - svg.getBoundingClientRect().left - LEFT) / (w - LEFT - 8)) * steps)),
      keydown: (event: KeyboardEvent) => {
        const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -steps, End: steps }[event.key];
        if (by === undefined) return;
        event.preventDefault();
        this.go(live, side, at + by);
        requestAnimationFrame(() => (document.querySelector(`[data-id=timeline${side}]`) as SVGElement | null)?.focus());
      } },
      marks, s("path", { class: "area", d: `${d}L${x(steps - 1)} ${y(0)}Z` }), s("path", { class: "line", d }),
      s("line", { class: "peak", x1: x(live.at), x2: x(live.at), y1: 8, y2: height - BOTTOM }),
      s("text", { class: "peak", x: Math.min(x(live.at) + 5, w - 110), y: height - 5 }, `peak ${quantity(live.peak, "B")}`));
    const alive = costs.alive(side);
    const list = alive.slice(0, 6).map(({ op, bytes }) => {
      const { item, instances } = model.opAt(op);
      const { around: path, own } = model.label(item);
      return h("li", {}, h("button", { type: "button", class: "link", click: () => {
        for (const [around, k] of instances) this.store.setInstance(around, k);
        this.store.reveal(item);
      } }, `${path ? `${path} ` : ""}${own}`), ` ${quantity(bytes, "B")}, ${percent(bytes / most)}`);
    });
    return h("div", { class: "beside" }, svg, h("div", { class: "list" }, h("h4", {}, model.compared ? `${side ? "B" : "A"}: what makes the peak` : "What makes the peak"), h("ol", {}, list), alive.length > 6 ? h("p", { class: "small" }, `and ${alive.length - 6} smaller`) : null));
  }
}
