// Finds by name, op, class, axis or shape; every word must be somewhere in what is known of an item.
import { h, replace } from "./dom";
import { resolve, type Item } from "./model";
import type { Store } from "./state";
import { walk } from "./walk";

const MOST = 50;

export class Search {
  readonly input = h("input", {
    type: "search", id: "search", placeholder: "Search: name, op, axis, shape", autocomplete: "off", spellcheck: "false",
    role: "combobox", "aria-expanded": "false", "aria-controls": "found", "aria-autocomplete": "list", "aria-label": "Search by name, op, axis or shape",
  });
  readonly list = h("ul", { id: "found", role: "listbox", "aria-label": "Found", hidden: true });
  readonly element = h("div", { class: "search" }, this.input, this.list);
  private items: Item[] | null = null;
  private texts: string[] = [];
  private found: Item[] = [];
  private instances: [Item, number][] = []; // of the first that was found
  private at = -1;

  constructor(private store: Store, private chosen: (item: Item) => void) {
    this.input.addEventListener("input", () => this.look());
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.input.addEventListener("blur", () => setTimeout(() => this.close(), 150));
    this.input.addEventListener("focus", () => this.input.value && this.look());
  }

  private text(item: Item): string {
    const { model } = this.store;
    const { raw } = item;
    const types = item.block ? [...item.block.inputs, ...item.block.outputs].map((port) => port.type) : [...(raw.out ?? []), ...(raw.b?.out ?? [])];
    const parts = [raw.name, raw.kind, ...(raw.names ?? []).slice(0, 200), model.opKind(item)?.op, item.subtitle, raw.made, raw.text, ...(raw.weights ?? [])];
    if (item.state !== "same") parts.push(`state:${item.state}`);
    if (this.store.marks(item).length) parts.push("state:weights");
    for (const type of new Set(types)) parts.push(model.type(type).axes, model.type(type).numbers);
    return parts.filter((part) => part).join(" \n").toLowerCase();
  }

  private look(): void {
    const words = this.input.value.toLowerCase().split(/\s+/).filter((word) => word).slice(0, 20);
    if (!words.length) {
      this.close();
      return;
    }
    if (!this.items) {
      this.items = walk(this.store.model);
      this.texts = this.items.map((item) => this.text(item));
    }
    // A word may be that of a block around, if another is the item's own; items that have all words come first, names before types.
    const whole = words.join(" ");
    const ranks: [Item[], Item[], Item[]] = [[], [], []];
    const around = new Map<Item, number>();
    const all = (1 << words.length) - 1;
    for (let i = 0; i < this.items.length; i++) {
      const item = this.items[i];
      let own = 0;
      words.forEach((word, j) => (own |= this.texts[i].includes(word) ? 1 << j : 0));
      const has = own | (item.parent ? (around.get(item.parent) ?? 0) : 0);
      if (item.block) around.set(item, has);
      if (!own || has !== all) continue;
      ranks[own !== all ? 2 : item.title.toLowerCase().includes(whole) ? 0 : 1].push(item);
    }
    const named = resolve(this.store.model, this.input.value.trim());
    this.instances = named?.instances ?? [];
    const found = [...new Set([...(named ? [named.item] : []), ...ranks.flat()])];
    this.found = found.slice(0, MOST);
    this.at = this.found.length ? 0 : -1;
    this.draw(found.length);
  }

  private draw(count: number): void {
    const { model } = this.store;
    const rows = this.found.map((item, i) => {
      const type = item.block ? item.block.outputs[0]?.type : item.raw.out?.[0];
      return h("li", { role: "option", id: `found${i}`, "aria-selected": String(i === this.at), mousedown: (event: Event) => {
        event.preventDefault();
        this.take(i);
      } }, h("span", { class: `dot k-${item.kind}`, "aria-hidden": "true" }), h("strong", {}, item.title), ` ${item.subtitle} `,
        h("span", { class: "dim" }, model.trail(item).slice(1, -1).map((one) => one.title).join(" › ")), type === undefined ? null : h("code", {}, model.type(type).axes));
    });
    replace(this.list, rows, h("li", { role: "option", "aria-disabled": "true", "aria-selected": "false", class: "small" }, count > MOST ? `${count} found; the first ${MOST}` : `${count} found`));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.mark();
  }

  private mark(): void {
    [...this.list.children].forEach((row, i) => row.setAttribute("aria-selected", String(i === this.at)));
    if (this.at >= 0) {
      this.input.setAttribute("aria-activedescendant", `found${this.at}`);
      this.list.children[this.at].scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  private key(event: KeyboardEvent): void {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!this.found.length) return;
      this.at = (this.at + (event.key === "ArrowDown" ? 1 : this.found.length - 1)) % this.found.length;
      this.mark();
    } else if (event.key === "Enter" && this.at >= 0) this.take(this.at);
    else if (event.key === "Escape") this.close();
  }

  private take(i: number): void {
    const item = this.found[i];
    this.close();
    if (i === 0) for (const [one, k] of this.instances) this.store.setInstance(one, k);
    this.chosen(item);
  }

  private close(): void {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}
