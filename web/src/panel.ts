// Everything known of the item that is selected.
import { h, s, type Content } from "./dom";
import type { Amount } from "./costs";
import type { Item, Model } from "./model";
import { exact, percent, quantity } from "./numbers";
import type { Histogram, Network, Parameter } from "./schema";
import type { Store } from "./state";

const SHOWN = 60; // rows of a list before `more`
const PORTS = 12;

function section(title: string, ...content: Content[]): HTMLElement {
  return h("section", {}, h("h3", {}, title), content);
}

function facts(rows: [string, Content][]): HTMLElement {
  return h("dl", {}, rows.filter(([, value]) => value !== null && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function amount({ value, partial }: Amount, show: (x: number) => string): string {
  return value === null ? "not counted" : `${partial ? "at least " : ""}${show(value)}`;
}

function histogram({ low, high, counts, mean, std, zeros, nonfinite, range }: Histogram): HTMLElement {
  const most = Math.max(1, ...counts);
  const bar = 6;
  const title = `from ${low.toPrecision(3)} to ${high.toPrecision(3)}`;
  const picture = s("svg", { class: "histogram", viewBox: `0 0 ${counts.length * bar} 40`, role: "img", "aria-label": `histogram ${title}`, preserveAspectRatio: "none" },
    counts.map((count, i) => s("rect", { x: i * bar + 0.5, y: 40 - (38 * count) / most, width: bar - 1, height: (38 * count) / most })),
    (range ?? []).filter((end) => low < end && end < high).map((end) => ((end - low) / (high - low)) * counts.length * bar).map((x) => s("line", { x1: x, x2: x, y1: 0, y2: 40 })));
  const about = [`${low.toPrecision(3)} … ${high.toPrecision(3)}`, `mean ${mean.toPrecision(3)}`, `std ${std.toPrecision(3)}`];
  if (zeros) about.push(`${exact(zeros)} zeros`);
  if (nonfinite) about.push(`${exact(nonfinite)} not finite`);
  return h("div", {}, picture, h("p", { class: "small" }, about.join(" · ")));
}

function typeOf(model: Model, type: number, bytes: number): Content {
  const { axes, numbers } = model.type(type);
  return [h("code", {}, axes), axes === numbers ? null : [h("br"), h("code", { class: "dim" }, numbers)], h("span", { class: "small" }, `  ${quantity(bytes, "B")}`)];
}

export class Panel {
  readonly element = h("aside", { class: "panel", "aria-label": "What is selected", tabindex: 0 });

  constructor(private store: Store) {}

  show(): void {
    const { store } = this;
    const item = store.selected ?? store.model.root;
    this.element.textContent = "";
    this.element.append(...this.content(item).filter((part): part is HTMLElement => part !== null));
    this.element.scrollTop = 0;
  }

  private content(item: Item): (HTMLElement | null)[] {
    const { model } = this.store;
    const op = model.opKind(item);
    return [
      h("h2", {}, h("span", { class: `dot k-${item.kind}`, "aria-hidden": "true" }), item.title, item.count > 1 ? h("span", { class: "badge" }, ` × ${item.count}`) : null),
      item.subtitle ? h("p", { class: "dim" }, item.subtitle) : null,
      this.state(item),
      item.block && item.parent
        ? h("p", {}, h("button", { type: "button", click: () => this.store.toggle(item) }, this.store.open.has(item.id) ? "Close in place" : "Open in place"))
        : null,
      item.count > 1 ? this.repetition(item) : null,
      item.raw.differs ? section("Like the one before, but", h("ul", {}, item.raw.differs.what.map((line) => h("li", {}, line)))) : null,
      this.control(item),
      this.types(item),
      this.costs(item),
      item.parent ? null : this.network(),
      !item.parent && model.data.notices?.length ? section("Notices", h("ul", {}, model.data.notices.map((line) => h("li", {}, line)))) : null,
      this.place(item),
      this.said(item),
      op?.attributes && Object.keys(op.attributes).length ? section("Attributes", facts(Object.entries(op.attributes).map(([name, value]) => [name, h("code", {}, value)]))) : null,
      item.raw.text ? section("Text", h("pre", { tabindex: 0 }, item.raw.text)) : null,
      item.block ? section("Body", h("pre", { tabindex: 0 }, this.body(item))) : null,
      this.parameters(item),
      op && op.text !== undefined && op.text !== null ? section("Body", h("pre", { tabindex: 0 }, model.data.texts[op.text])) : null,
    ];
  }

  /** What a block holds, a line an item. */
  private body(item: Item): string {
    const { model } = this.store;
    const lines = model.children(item).slice(0, 400).map((one, i) => {
      const types = one.block ? one.block.outputs.map((port) => port.type) : (one.raw.out ?? []);
      const says = one.block ? `${one.title}${one.count > 1 ? ` × ${one.count}` : ""}${one.subtitle ? `  ${one.subtitle}` : ""}` : (one.raw.text ?? one.title);
      return `%${i}  ${types.slice(0, 3).map((type) => model.type(type).axes).join(", ")}${types.length > 3 ? ", …" : ""}  ${says}`;
    });
    return lines.join("\n");
  }

  /** Of a program its slots; of a block of it what it reads and writes, and what comes next. */
  private control(item: Item): HTMLElement | null {
    const { model } = this.store;
    const { program } = model.data;
    if (!program || item.depth > 1) return null;
    const line = (n: number, text = "") => {
      const { name, type, buffer, lengths, state, b } = program.slots[n];
      const more = [buffer ? `buffer ${buffer}` : "", ...(lengths ?? []).map(([i, length]) => `of dimension ${i} ${program.slots[length].name} entries count`)];
      const only = state === "a" || state === "b" ? h("em", {}, ` only in ${state.toUpperCase()}`) : b === undefined ? null : [" → ", h("code", {}, model.type(b).axes)];
      return h("li", {}, h("strong", {}, name), text ? ` ← ${text}` : "", " ", h("code", {}, model.type(type).axes), only, more.filter((part) => part).map((part) => h("p", { class: "small" }, part)));
    };
    if (!item.parent) return section(`Slots (${program.slots.length})`, h("ul", { class: "plain" }, program.slots.slice(0, SHOWN).map((_, n) => line(n))), program.slots.length > SHOWN ? h("p", { class: "small" }, `and ${program.slots.length - SHOWN} more`) : null);
    const { reads = [], writes = [], raises } = item.raw;
    const blocks = model.children(item.parent);
    const next = (item.parent.block?.flow ?? []).filter((one) => one.from === item.index).map(({ to, when, side }) => h("li", {}, side ? `only in ${side.toUpperCase()}: ` : "", to < 0 ? when : [`${when}: `, h("button", { type: "button", class: "link", click: () => this.store.select(blocks[to]) }, blocks[to].title)]));
    return section("Control",
      reads.length ? [h("h4", {}, "reads"), h("ul", { class: "plain" }, reads.map((n) => line(n)))] : null,
      writes.length ? [h("h4", {}, "writes"), h("ul", { class: "plain" }, writes.map(([n, text]) => line(n, text)))] : null,
      h("h4", {}, "then"), raises === undefined ? h("ul", { class: "plain" }, next) : h("p", {}, `raises ${raises}`));
  }

  private state(item: Item): HTMLElement | null {
    if (!this.store.model.compared) return null;
    const marks = this.store.marks(item);
    if (item.state === "same" && !marks.length) return null;
    const names = this.store.model.data.networks.map((network) => network.name);
    const text = item.raw.moves ? `For the layout of ${names[item.state === "a" ? 0 : 1]}: it only moves entries` : item.state === "a" ? `Only in A, ${names[0]}` : item.state === "b" ? `Only in B, ${names[1]}` : item.state === "same" ? "The same but for numbers in weights" : "Changed from A to B";
    return h("div", { class: `state st-${item.state}` }, h("strong", {}, text),
      item.raw.changes?.length || marks.length ? h("ul", {}, [...(item.raw.changes ?? []), ...marks.map((mark) => `${mark}${item.block ? " at most" : ""}`)].map((line) => h("li", {}, line))) : null);
  }

  private repetition(item: Item): HTMLElement {
    const { store } = this;
    const names = item.raw.names ?? Array.from({ length: item.count }, (_, i) => String(i));
    const now = store.model.instance.get(item.id) ?? 0;
    const select = h("select", { id: "nth", change: (event: Event) => store.setInstance(item, Number((event.target as HTMLSelectElement).value)) },
      names.map((name, i) => h("option", { value: i, selected: i === now }, name)));
    const { chain, shared } = item.raw;
    return section("Repeated",
      h("p", {}, `${item.count} times the same. `, chain?.length ? `Each feeds the next${chain.length > 1 ? ` by ${chain.length} values` : ""}. ` : "", shared?.length ? `${shared.length} input${shared.length > 1 ? "s are" : " is"} the same for all.` : ""),
      h("p", {}, h("label", { for: "nth" }, "Weights and times inside are those of "), select));
  }

  private types(item: Item): HTMLElement | null {
    const { model, costs } = this.store;
    const one = (type: number) => typeOf(model, type, costs.typeBytes(type));
    if (!item.block) {
      const out = item.raw.out ?? [];
      return section(out.length > 1 ? "Results" : "Result", h("ul", { class: "plain" }, out.map((type) => h("li", {}, one(type)))));
    }
    const ports = (title: string, list: { type: number; name?: string }[]) => {
      const rows: { port: { type: number; name?: string }; count: number }[] = [];
      for (const port of list) {
        const last = rows[rows.length - 1];
        if (last && !port.name && !last.port.name && last.port.type === port.type) last.count++;
        else rows.push({ port, count: 1 });
      }
      const shown = rows.slice(0, PORTS).map(({ port, count }) => h("li", {}, port.name ? `${port.name}  ` : "", one(port.type), count > 1 ? ` × ${count}` : ""));
      return rows.length ? [h("h4", {}, title), h("ul", { class: "plain" }, shown), rows.length > PORTS ? h("p", { class: "small" }, `and ${rows.length - PORTS} more`) : null] : null;
    };
    return section("Values", ports("in", item.block.inputs), ports("out", item.block.outputs));
  }

  private costs(item: Item): HTMLElement {
    const { store } = this;
    const { model, costs } = store;
    const sides: (0 | 1)[] = model.compared ? [0, 1] : [0];
    const head = model.compared ? h("tr", {}, h("th", { scope: "col" }, "of"), h("th", { scope: "col" }, "A"), h("th", { scope: "col" }, "B")) : h("tr", {}, h("th", { scope: "col" }, "of"), h("th", { scope: "col" }, "this"), h("th", { scope: "col" }, "share"));
    const rows = store.metrics.filter((metric) => !metric.difference).map((metric) => {
      const values = (metric.some ? sides.slice(0, 1) : sides).map((side) => metric.of(item, side)); // what is said of some ops is of both
      const whole = metric.additive ? metric.of(model.root) : null;
      const share = whole?.value && values[0].value !== null ? percent(values[0].value / whole.value) : "";
      const cells = values.map((value) => h("td", { colspan: model.compared && metric.some ? 2 : null, title: value.value === null ? "" : exact(value.value) }, metric.some && value.value === null ? "–" : amount(value, metric.show)));
      return h("tr", {}, h("th", { scope: "row" }, metric.name), cells, model.compared ? null : h("td", {}, share));
    });
    const more: [string, Content][] = ["macs", "attention_flops", "transcendental"].flatMap((column): [string, Content][] => {
      const value = costs.column(item, column);
      return value.value ? [[column.replace("_", " "), amount(value, quantity)]] : [];
    });
    const weights = costs.parameters(item);
    if (weights.bytes) more.push(["weights", quantity(weights.bytes, "B")]);
    return section(costs.home ? "Costs" : "Costs at these sizes", h("table", {}, h("thead", {}, head), h("tbody", {}, rows)), facts(more));
  }

  private network(): HTMLElement {
    return h("div", {}, this.store.model.data.networks.map((network: Network, i) =>
      section(this.store.model.compared ? `${i ? "B" : "A"}: ${network.name}` : this.store.costs.home ? "Network" : "Network, as it is",
        facts([["source", network.source ?? null], ...Object.entries(network.totals).map(([name, value]): [string, Content] => [name.replaceAll("_", " "), h("span", { title: exact(value) }, quantity(value, name.endsWith("bytes") ? "B" : ""))])]),
        this.partial(network))));
  }

  private partial(network: Network): HTMLElement | null {
    const partial = network.partial;
    const names = Array.isArray(partial) ? partial.map((one) => (Array.isArray(one) ? `${one[0]} (${one[1]})` : one)) : Object.entries(partial ?? {}).map(([name, times]) => `${name} (${times})`);
    return names.length ? h("p", { class: "warning" }, `Not counted, so all sums are lower bounds: ${names.join(", ")}`) : null;
  }

  /** The weight of B that stands for one of A: how far it is off. */
  private partner(one: Parameter, other: Parameter, pictured: boolean): HTMLElement {
    const change = one.change ?? 0;
    const name = other.name === one.name ? "" : ` ${other.name}`;
    return h("div", {}, h("p", { class: "small" }, change ? `B${name} differs by ${percent(change)} of the norm` : `B${name} is the same`), change && pictured && other.histogram ? histogram(other.histogram) : null);
  }

  private place(item: Item): HTMLElement | null {
    const { model } = this.store;
    const { source, made } = item.raw;
    const rows: [string, Content][] = [
      ["module", model.modulePath(item)],
      ["source", source !== undefined && source !== null ? h("code", {}, model.data.texts[source]) : null],
      ["made as", made ? h("code", {}, made) : null],
      ["class", item.block ? null : (item.raw.kind ?? null)],
      ["ops", item.block ? exact(item.count * item.block.ops) : null],
    ];
    return rows.some(([, value]) => value) ? section("Where", facts(rows)) : null;
  }

  /** What somebody found for this op: ranges on data and how numbers are spread, where it is to be quantized. */
  private said(item: Item): HTMLElement | null {
    const { model } = this.store;
    if (item.block) return null;
    const { op } = model.range(item);
    const rows = (model.data.networks[item.state === "b" ? 1 : 0].said ?? []).map(({ name, each }): [string, Content] => {
      const found = each[op];
      return [name, typeof found === "object" && found ? histogram(found) : found];
    });
    return rows.some(([, found]) => found) ? section("Measured", facts(rows)) : null;
  }

  private parameters(item: Item): HTMLElement | null {
    const { model, costs } = this.store;
    const side = item.state === "b" ? 1 : 0;
    const { slot, slots } = model.range(item, side);
    const numbers = model.data.networks[side]?.slots?.slice(slot, slot + slots) ?? [];
    const found = [...new Set(numbers)].map((number) => model.data.parameters[number]).filter((one): one is Parameter => !!one);
    if (!found.length) return null;
    const list = found.slice(0, SHOWN).map((one) =>
      h("li", {}, h("strong", {}, one.name), " ", typeOf(model, one.type, costs.typeBytes(one.type)),
        one.kind === "parameter" ? (one.trainable === false ? h("em", {}, " frozen") : null) : h("em", {}, ` ${one.kind}`),
        one.tied ? h("p", { class: "small" }, `the same tensor as ${one.tied}`) : null,
        one.histogram && found.length <= 12 ? histogram(one.histogram) : null,
        one.codes ? h("p", { class: "small" }, `codes for ${one.codes.low.toPrecision(3)} … ${one.codes.high.toPrecision(3)} · ${percent(one.codes.ends)} at an end`) : null,
        one.b === undefined ? null : this.partner(one, model.data.parameters[one.b], found.length <= 12)));
    return section(`Parameters, buffers, constants (${found.length})`, h("ul", { class: "plain" }, list), found.length > SHOWN ? h("p", { class: "small" }, `and ${found.length - SHOWN} more`) : null);
  }
}
