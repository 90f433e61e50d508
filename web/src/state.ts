// What the page shows, and the part of the address behind #, which says the same: a link to a place opens that place.
import type { Costs, Metric } from "./costs";
import type { Item, Model } from "./model";

export type Change = "open" | "selected" | "heat" | "sizes" | "view" | "tab";

export interface Place {
  open: string[];
  at: string | null;
  heat: string;
  sized: boolean;
  tab: string;
  across: boolean;
  sizes: [string, number][];
  instances: [string, number][];
}

export class Store {
  open = new Set<number>();
  selected: Item | null = null;
  heat = "kind";
  sized = false;
  tab = "";
  across = false;
  guessed = false; // what is open is nobody's wish
  private listeners: ((changes: Set<Change>) => void)[] = [];
  private pending = new Set<Change>();

  constructor(readonly model: Model, readonly costs: Costs, readonly metrics: Metric[]) {}

  listen(listener: (changes: Set<Change>) => void): void {
    this.listeners.push(listener);
  }

  /** Tells all parts of the page once, after the event that changed something. */
  changed(...changes: Change[]): void {
    if (!this.pending.size) queueMicrotask(() => this.tell());
    for (const change of changes) this.pending.add(change);
  }

  private tell(): void {
    const changes = this.pending;
    this.pending = new Set();
    for (const listener of this.listeners) listener(changes);
  }

  metric(): Metric | null {
    return this.metrics.find((metric) => metric.id === this.heat) ?? null;
  }

  /** What marks say of an item, whatever the colour: that weights differ, and how far. */
  marks(item: Item): string[] {
    return this.metrics.flatMap((metric) => {
      const value = metric.mark ? metric.of(item).value : null;
      return value ? [`${metric.mark} ${metric.show(value)}`] : [];
    });
  }

  /** The metric of plots: that of the colour, or FLOPs. */
  measure(): Metric {
    return this.metric() ?? this.metrics[0];
  }

  select(item: Item | null): void {
    if (this.selected === item) return;
    this.selected = item;
    this.changed("selected");
  }

  toggle(item: Item): void {
    if (!item.block) return;
    if (this.open.has(item.id)) this.open.delete(item.id);
    else this.open.add(item.id);
    this.changed("open");
  }

  /** Opens all around an item, and selects it. */
  reveal(item: Item): void {
    for (const one of this.model.trail(item)) {
      if (one !== item && one.parent && !this.open.has(one.id)) {
        this.open.add(one.id);
        this.changed("open");
      }
    }
    this.select(item);
  }

  setInstance(item: Item, k: number): void {
    this.model.instance.set(item.id, k);
    this.changed("selected", "heat");
  }

  place(): string {
    const { model } = this;
    const shown = [...this.open].map((id) => model.items[id]).filter((item) => model.trail(item).every((one) => !one.parent || this.open.has(one.id)));
    const leaves = new Set(shown);
    for (const item of shown) if (item.parent) leaves.delete(item.parent);
    const part = new URLSearchParams();
    part.set("open", [...leaves].map((item) => item.path).sort().join(","));
    if (this.selected) part.set("at", this.selected.path);
    if (this.heat !== "kind") part.set("heat", this.heat);
    if (this.sized) part.set("sized", "1");
    if (this.tab) part.set("tab", this.tab);
    if (this.across) part.set("across", "1");
    model.data.symbols.forEach((symbol, i) => {
      if (symbol.axis && this.costs.sizes[i] !== symbol.size) part.append("size", `${i}:${this.costs.sizes[i]}`);
    });
    for (const [id, k] of model.instance) if (k) part.append("nth", `${model.items[id].path}:${k}`);
    return part.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  }

  /** Shows what an address says; what it says of things that aren't there is left out. */
  go(hash: string): void {
    const part = new URLSearchParams(hash.replace(/^#/, ""));
    const { model, costs } = this;
    this.open.clear();
    for (const path of (part.get("open") ?? "").split(",").filter((one) => one)) {
      const item = model.at(path);
      for (const one of item ? model.trail(item) : []) if (one.parent && one.block) this.open.add(one.id);
    }
    this.heat = part.get("heat") ?? "kind";
    this.sized = part.has("sized");
    this.tab = part.get("tab") ?? "";
    this.across = part.has("across");
    costs.restore();
    for (const text of part.getAll("size")) {
      const [i, size] = text.split(":").map(Number);
      if (model.data.symbols[i]?.axis && size >= (model.data.symbols[i].runs ? 0 : 1)) costs.set(i, Math.floor(size));
    }
    model.instance.clear();
    for (const text of part.getAll("nth")) {
      const [path, k] = text.split(":");
      const item = model.at(path);
      if (item && Number(k) >= 0 && Number(k) < item.count) model.instance.set(item.id, Number(k));
    }
    this.selected = null;
    const at = part.get("at");
    const item = at === null ? null : model.at(at);
    if (item) this.reveal(item);
    this.changed("open", "selected", "heat", "sizes", "tab");
  }
}
