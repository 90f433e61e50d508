// One slider for each free axis: costs follow by the formulas, in the page.
import { h, replace } from "./dom";
import { quantity } from "./numbers";
import type { Symbol_ } from "./schema";
import type { Store } from "./state";

/** The largest size of a slider: far beyond the network's own, on a scale of powers of two; 10 doublings for turns of a block. */
function most(symbol: Symbol_): number {
  return symbol.runs ? 1024 : 2 ** Math.ceil(Math.log2(Math.max(symbol.size, 4)) + 4);
}

/** The place of a size on the scale: blocks may be run never, so theirs begins below 1. */
const onScale = (symbol: Symbol_, size: number) => Math.log2(symbol.runs ? size + 1 : size);
const fromScale = (symbol: Symbol_, at: number) => Math.max(least(symbol), Math.round(2 ** at) - (symbol.runs ? 1 : 0));
const least = (symbol: Symbol_) => (symbol.runs ? 0 : 1);

export class Sliders {
  readonly element = h("section", { class: "sliders", "aria-label": "Sizes of axes" });
  private outputs: (() => void)[] = [];

  constructor(private store: Store) {}

  get any(): boolean {
    return this.store.model.data.symbols.some((symbol) => symbol.axis && !symbol.sizes);
  }

  show(): void {
    if (!this.element.childNodes.length) this.make();
    for (const update of this.outputs) update();
  }

  private make(): void {
    const { store } = this;
    const { model, costs } = store;
    const change = (i: number, size: number) => {
      if (!(size >= least(model.data.symbols[i])) || costs.sizes[i] === size) return;
      costs.set(i, size);
      store.changed("sizes");
    };
    const rows = model.data.symbols.flatMap((symbol, i) => {
      if (!symbol.axis || symbol.sizes) return [];
      const name = symbol.runs ? `runs of ${symbol.name}` : (symbol.name ?? `axis ${i}`);
      const range = h("input", { type: "range", min: 0, max: Math.log2(most(symbol)), step: 0.01, "aria-label": `${name}, slider`, "data-axis": name,
        input: () => change(i, fromScale(symbol, Number(range.value))),
        keydown: (event: KeyboardEvent) => {
          const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
          if (by === undefined) return;
          event.preventDefault(); // by one entry, not by a hundredth of a doubling
          change(i, Math.max(least(symbol), costs.sizes[i] + by));
        } });
      const number = h("input", { type: "number", min: least(symbol), step: 1, "aria-label": name, change: () => change(i, Math.floor(Number(number.value))) });
      this.outputs.push(() => {
        number.value = String(costs.sizes[i]);
        if (fromScale(symbol, Number(range.value)) !== costs.sizes[i]) range.value = String(onScale(symbol, costs.sizes[i]));
        range.setAttribute("aria-valuetext", String(costs.sizes[i]));
      });
      return [h("div", { class: "slider" }, h("span", { class: "axis" }, name, symbol.certain === false ? h("abbr", { title: "The graph alone says that this axis can have other sizes; its source was not asked" }, " ?") : null), range, number)];
    });
    const sums = h("p", { class: "sums", "aria-live": "polite" });
    const why = h("div", { class: "warning", role: "status" });
    this.outputs.push(() => {
      const root = model.root;
      const shown = store.metrics.filter((metric) => ["flops", "bytes", "parameters"].includes(metric.id)).map((metric) => {
        const { value } = metric.of(root);
        return `${value === null ? "not known" : metric.show(value)}${metric.id === "bytes" ? " moved" : metric.id === "parameters" ? " parameters" : ""}`;
      });
      const live = costs.live();
      if (live) shown.push(`peak ${quantity(live.peak, "B")}`);
      replace(sums, shown.join(" · "));
      const broken = costs.broken();
      replace(why, broken.length ? ["The network can't have these sizes: ", h("ul", {}, broken.slice(0, 5).map((line) => h("li", {}, line)))] : null);
      why.hidden = !broken.length;
      reset.disabled = costs.home;
    });
    const reset = h("button", { type: "button", click: () => {
      costs.restore();
      store.changed("sizes");
    } }, "Own sizes");
    this.element.append(h("div", { class: "rows" }, rows), h("div", { class: "row" }, sums, reset), why);
  }
}
