// All boxes and ops with their costs, sorted by any of them. Only the rows in sight are made.
import { h, replace } from "./dom";
import type { Item } from "./model";
import type { Store } from "./state";
import { walk } from "./walk";

const ROW = 26;

export class Table {
  readonly element = h("div", { class: "plot table" });
  private scroll = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of costs" });
  private rows: Item[] = [];
  private by = "flops";
  private down = true;
  private which = "blocks";
  private sorted = "";

  constructor(private store: Store) {
    this.scroll.addEventListener("scroll", () => this.fill());
  }

  show(): void {
    if (!this.scroll.isConnected) replace(this.element, this.tools(), this.scroll);
    this.sort();
    this.fill();
  }

  private tools(): HTMLElement {
    const choice = (value: string, text: string) => h("option", { value, selected: value === this.which }, text);
    return h("p", { class: "tools" }, h("label", { for: "rows" }, "Rows "), h("select", { id: "rows", change: (event: Event) => {
      this.which = (event.target as HTMLSelectElement).value;
      this.show();
    } }, choice("blocks", "blocks"), choice("ops", "ops"), choice("all", "all")));
  }

  private value(item: Item, id: string): number {
    const metric = this.store.metrics.find((one) => one.id === id);
    return metric?.of(item, item.state === "b" ? 1 : 0).value ?? -1;
  }

  private sort(): void {
    const { model, costs } = this.store;
    const key = `${this.by}${this.down}${this.which}${costs.version}${[...model.instance]}`;
    if (key === this.sorted) return;
    this.sorted = key;
    const items = walk(model).filter((item) => this.which === "all" || (this.which === "ops") === !item.block);
    const sign = this.down ? -1 : 1;
    if (this.by === "name") this.rows = items.sort((a, b) => sign * a.title.localeCompare(b.title));
    else if (this.by === "order") this.rows = this.down ? items : items.reverse();
    else {
      const values = new Map(items.map((item) => [item, this.value(item, this.by)]));
      this.rows = items.sort((a, b) => sign * ((values.get(a) as number) - (values.get(b) as number)));
    }
  }

  private head(): HTMLElement {
    const column = (id: string, name: string) => h("th", { scope: "col", "aria-sort": this.by === id ? (this.down ? "descending" : "ascending") : "none" },
      h("button", { type: "button", "data-sort": id, click: () => {
        this.down = this.by === id ? !this.down : true;
        this.by = id;
        this.show();
        (this.scroll.querySelector(`[data-sort="${id}"]`) as HTMLElement | null)?.focus();
      } }, name, this.by === id ? (this.down ? " ↓" : " ↑") : ""));
    return h("thead", {}, h("tr", {}, column("name", "name"), column("order", "in order"), this.store.metrics.map((metric) => column(metric.id, metric.name))));
  }

  private fill(): void {
    const { store } = this;
    const high = this.scroll.clientHeight || 200;
    const from = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - 8);
    const to = Math.min(this.rows.length, from + Math.ceil(high / ROW) + 16);
    const space = (count: number) => {
      const cell = h("td", { colspan: store.metrics.length + 2 });
      cell.style.height = `${count * ROW}px`;
      cell.style.padding = "0";
      return count ? h("tr", { "aria-hidden": "true" }, cell) : null;
    };
    const rows = this.rows.slice(from, to).map((item, i) => {
      const { around: path, own } = store.model.label(item);
      return h("tr", { class: store.selected === item ? "on" : "", "aria-rowindex": from + i + 2 },
        h("td", { class: "name" }, h("button", { type: "button", class: "link", click: () => store.reveal(item) }, path ? h("span", { class: "dim" }, `${path} `) : null, own, item.count > 1 ? ` × ${item.count}` : "")),
        h("td", {}, item.subtitle),
        store.metrics.map((metric) => {
          const { value, partial } = metric.of(item, item.state === "b" ? 1 : 0);
          return h("td", { class: "number" }, value === null ? "–" : `${partial ? "≥ " : ""}${metric.show(value)}`);
        }));
    });
    const table = h("table", { "aria-rowcount": this.rows.length + 1 }, this.head(), h("tbody", {}, space(from), rows, space(this.rows.length - to)));
    const top = this.scroll.scrollTop;
    replace(this.scroll, table);
    this.scroll.scrollTop = top;
  }
}
