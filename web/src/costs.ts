// Numbers of items at the sizes of the sliders. Sums over a body are made once for all places where it stands.
import { duration, exact, quantity } from "./numbers";
import type { Item, Model } from "./model";
import type { Body, Measured, Network, RawItem, Timing } from "./schema";

/** `value` null: not counted. `partial`: what is not counted is missing in it, so it is a lower bound. */
export interface Amount {
  value: number | null;
  partial: boolean;
}

export interface Live {
  bytes: Float64Array; // alive at each step
  peak: number;
  at: number;
  starts: Int32Array; // step at which each activation is made
  stepOf: Int32Array; // of each op of the opened tree; -1: it does not run
}

type Sum = { values: Float64Array; unknown: Uint8Array; partial: boolean };

const ZERO: Amount = { value: 0, partial: false };

export class Costs {
  readonly sizes: number[];
  private atHome = true;
  private formulas: Float64Array;
  private symbols: Float64Array;
  private done: Uint8Array;
  private sums: Map<Body, Sum>[] = [];
  private live_: (Live | null)[] = [];
  private peaks: (Float64Array | null)[] = [];
  private elements = new Map<number, number>();
  private prefixes = new Map<Timing, { sums: Float64Array; missing: Int32Array }>();
  private parameterSums = new Map<string, { count: number; bytes: number }>();
  version = 0; // goes up when a size changes

  constructor(private model: Model) {
    const { data } = model;
    this.sizes = data.symbols.map((symbol) => symbol.size);
    this.formulas = new Float64Array(data.formulas.length);
    this.symbols = new Float64Array(data.symbols.length);
    this.done = new Uint8Array(data.formulas.length);
    this.reset();
  }

  private reset(): void {
    const { data } = this.model;
    this.version++;
    this.atHome = data.symbols.every((symbol, i) => this.sizes[i] === symbol.size || !!symbol.function);
    this.done.fill(0);
    this.sums = [new Map(), new Map()];
    this.live_ = [];
    this.peaks = [];
    this.parameterSums.clear();
    data.symbols.forEach((symbol, i) => (this.symbols[i] = this.atHome ? symbol.size : symbol.function ? this.made(i) : this.sizes[i]));
  }

  /** Whether all sizes are the network's own. */
  get home(): boolean {
    return this.atHome;
  }

  set(symbol: number, size: number): void {
    this.sizes[symbol] = size;
    this.reset();
  }

  restore(): void {
    this.model.data.symbols.forEach((symbol, i) => (this.sizes[i] = symbol.size));
    this.reset();
  }

  private made(i: number): number {
    const { function: name, of } = this.model.data.symbols[i];
    const [x, y] = (of as number[]).map((n) => this.formula(n));
    if (name === "floor") return Math.floor(x / y);
    if (name === "min") return Math.min(x, y);
    if (name === "max") return Math.max(x, y);
    let bits = 0;
    for (let rest = x; rest >= 1; rest = Math.floor(rest / 2)) bits++;
    return bits;
  }

  /** The formula of that number; NaN where nobody knows it. */
  formula(n: number): number {
    if (this.done[n]) return this.formulas[n];
    const { value, terms, unknown } = this.model.data.formulas[n];
    let result = value;
    if (!this.atHome && unknown) result = NaN;
    else if (!this.atHome && terms) {
      result = 0;
      for (const term of terms) {
        let product = term[0];
        for (let i = 1; i < term.length; i += 2) product *= this.symbols[term[i]] ** term[i + 1];
        result += product;
      }
    }
    this.done[n] = 1;
    this.formulas[n] = result;
    return result;
  }

  /** Why the network can't have these sizes. */
  broken(): string[] {
    const found = this.model.data.conditions.filter((condition) => {
      const value = this.formula(condition.formula);
      return condition.is === "zero" ? value !== 0 : value < 0;
    });
    return this.atHome ? [] : [...new Set(found.map((condition) => condition.why))];
  }

  typeBytes(type: number): number {
    return this.formula(this.model.data.types[type].bytes);
  }

  private sum(body: Body, side: 0 | 1): Sum {
    const known = this.sums[side].get(body);
    if (known) return known;
    const { data } = this.model;
    const columns = data.cost_columns.length;
    const sum: Sum = { values: new Float64Array(columns), unknown: new Uint8Array(columns), partial: false };
    for (const raw of body.items) {
      if (raw.state === (side ? "a" : "b")) continue;
      if (raw.body !== undefined) {
        const inner = this.sum(data.bodies[raw.body], side);
        const times = (raw.times ?? 1) * this.runs(raw);
        for (let i = 0; i < columns; i++) {
          sum.values[i] += times * inner.values[i];
          sum.unknown[i] |= inner.unknown[i];
        }
        sum.partial ||= inner.partial;
        continue;
      }
      const cost = side && raw.b && "cost" in raw.b ? raw.b.cost : raw.cost;
      if (cost === null || cost === undefined) sum.partial = true;
      else
        data.costs[cost].forEach((formula, i) => {
          const value = this.formula(formula);
          if (Number.isNaN(value)) sum.unknown[i] = 1;
          else sum.values[i] += value;
        });
    }
    this.sums[side].set(body, sum);
    return sum;
  }

  /** How often an item is run where it is one of the blocks of a program; else 1. */
  runs(raw: RawItem): number {
    return raw.runs === undefined ? 1 : this.symbols[raw.runs];
  }

  /** A column of the costs, of all repetitions of the item. */
  column(item: Item, column: string, side: 0 | 1 = 0): Amount {
    const { data } = this.model;
    const i = data.cost_columns.indexOf(column);
    if (item.state === (side ? "a" : "b")) return ZERO;
    if (i < 0) return { value: null, partial: true };
    if (item.block) {
      const sum = this.sum(item.block, side);
      const lacks = sum.partial || !!sum.unknown[i];
      return { value: lacks && !sum.values[i] ? null : item.count * this.runs(item.raw) * sum.values[i], partial: lacks };
    }
    const cost = this.model.fields(item, side).cost;
    if (cost === null || cost === undefined) return { value: null, partial: true };
    const value = this.formula(data.costs[cost][i]);
    return Number.isNaN(value) ? { value: null, partial: true } : { value, partial: false };
  }

  private count(type: number): number {
    let known = this.elements.get(type);
    if (known === undefined) {
      const inside = /\[(.*)\]/.exec(this.model.data.types[type].numbers)?.[1] ?? "";
      known = inside.split(/\s+/).filter((part) => part).reduce((product, part) => product * Number(part), 1);
      this.elements.set(type, known);
    }
    return known;
  }

  /** How many parameters an item has, and bytes of all its weights, each counted once. */
  parameters(item: Item, side: 0 | 1 = 0): { count: number; bytes: number } {
    const { data } = this.model;
    const slots = data.networks[side]?.slots;
    const range = this.model.range(item, side);
    const key = `${side}:${range.slot}:${range.slots}`;
    const known = this.parameterSums.get(key);
    if (known) return known;
    const seen = new Set<string>();
    const found = { count: 0, bytes: 0 };
    for (let i = range.slot; slots && i < range.slot + range.slots; i++) {
      const parameter = data.parameters[slots[i]];
      if (!parameter || seen.has(parameter.tied ?? parameter.name)) continue;
      seen.add(parameter.tied ?? parameter.name);
      found.bytes += this.typeBytes(parameter.type);
      if (parameter.kind === "parameter") found.count += this.count(parameter.type);
    }
    this.parameterSums.set(key, found);
    return found;
  }

  /** Bytes alive at every step; null where the JSON has no memory. */
  live(side: 0 | 1 = 0): Live | null {
    if (this.live_[side] !== undefined) return this.live_[side];
    const { data } = this.model;
    const memory = data.networks[side]?.memory;
    if (!memory) return (this.live_[side] = null);
    const ops = data.bodies[data.root].ops;
    const steps = memory.order?.length ?? ops;
    const stepOf = new Int32Array(ops).fill(-1);
    for (let i = 0; i < steps; i++) stepOf[memory.order ? memory.order[i] : i] = i;
    const change = new Float64Array(steps + 2);
    const starts = new Int32Array(memory.op.length);
    memory.op.forEach((op, i) => {
      const bytes = this.formula(memory.bytes[i]);
      starts[i] = stepOf[op];
      if (starts[i] < 0 || Number.isNaN(bytes)) return;
      change[starts[i]] += bytes;
      change[Math.min(memory.until[i], steps) + 1] -= bytes;
    });
    const bytes = new Float64Array(steps);
    let [now, peak, at] = [0, -1, 0];
    for (let i = 0; i < steps; i++) {
      bytes[i] = now += change[i];
      if (now > peak) [peak, at] = [now, i];
    }
    return (this.live_[side] = { bytes, peak, at, starts, stepOf });
  }

  /** Activations alive at the peak (or at `step`), the largest first. */
  alive(side: 0 | 1, step?: number): { op: number; bytes: number }[] {
    const live = this.live(side);
    const memory = this.model.data.networks[side]?.memory;
    if (!live || !memory) return [];
    const at = step ?? live.at;
    const found: { op: number; bytes: number }[] = [];
    memory.op.forEach((op, i) => {
      if (live.starts[i] >= 0 && live.starts[i] <= at && memory.until[i] >= at) found.push({ op, bytes: this.formula(memory.bytes[i]) });
    });
    return found.sort((a, b) => b.bytes - a.bytes);
  }

  /** Bytes that the item made and that are alive at the peak. */
  peakBytes(item: Item, side: 0 | 1 = 0): Amount {
    if (!this.live(side)) return { value: null, partial: true };
    let sums = this.peaks[side];
    if (!sums) {
      sums = this.peaks[side] = new Float64Array(this.model.data.bodies[this.model.data.root].ops + 1);
      for (const { op, bytes } of this.alive(side)) sums[op + 1] += bytes;
      for (let i = 1; i < sums.length; i++) sums[i] += sums[i - 1];
    }
    const { op, ops } = this.model.range(item);
    return { value: sums[op + ops] - sums[op], partial: false };
  }

  /** Seconds of all ops of an item. */
  seconds(item: Item, timing: Timing | undefined): Amount {
    if (!timing) return { value: null, partial: true };
    if (item === this.model.root && this.model.data.program) {
      const each = this.model.children(item).map((block) => this.seconds(block, timing)).filter(({ value }) => value !== null);
      return { value: each.reduce((sum, { value }) => sum + (value ?? 0), 0), partial: each.some(({ partial }) => partial) };
    }
    let known = this.prefixes.get(timing);
    if (!known) {
      const { each } = timing;
      known = { sums: new Float64Array(each.length + 1), missing: new Int32Array(each.length + 1) };
      for (let i = 0; i < each.length; i++) {
        known.sums[i + 1] = known.sums[i] + (each[i] ?? 0);
        known.missing[i + 1] = known.missing[i] + (each[i] === null ? 1 : 0);
      }
      this.prefixes.set(timing, known);
    }
    const { op, ops } = this.model.range(item);
    if (!ops) return ZERO;
    const missing = known.missing[op + ops] - known.missing[op];
    return missing === ops ? { value: null, partial: true } : { value: this.runs(item.raw) * (known.sums[op + ops] - known.sums[op]), partial: missing > 0 };
  }
}

export interface Metric {
  id: string;
  name: string;
  of(item: Item, side?: 0 | 1): Amount;
  show(value: number): string;
  additive: boolean; // what is in a box adds up to it
  difference?: boolean; // of two networks
  low?: boolean; // the lowest is the worst, and the hottest
  mark?: string; // what is written on boxes with a number above 0
  some?: boolean; // only some ops have a number
}

/** The worst of a measure in an item; its heat is how far that is from the best of all. */
function worst(model: Model, measure: Measured): Metric {
  const share = (x: number) => `${x < 10 ? (100 * x).toPrecision(3) : exact(Math.round(100 * x))} %`;
  return {
    id: `measure-${measure.name}`, name: measure.name, additive: false, some: true, low: measure.worst === "low", mark: measure.mark,
    show: (x) => (measure.unit ? `${x.toPrecision(3)} ${measure.unit}` : share(x)),
    of: (item) => {
      const { op, ops } = model.range(item);
      const found = measure.each.slice(op, op + ops).filter((one) => one !== null);
      return { value: found.length ? found.reduce((a, b) => (measure.worst === "high" ? Math.max(a, b) : Math.min(a, b))) : null, partial: false };
    },
  };
}

const both = (a: Amount, b: Amount, join: (x: number, y: number) => number): Amount => ({
  value: a.value === null || b.value === null ? null : join(a.value, b.value),
  partial: a.partial || b.partial,
});

const bytes = (value: number) => quantity(value, "B");

/** What there is to colour by, in this network. */
export function metrics(model: Model, costs: Costs): Metric[] {
  const moved = model.data.cost_columns.includes("fused_reads") ? "fused_" : ""; // of the intensity
  const has = (test: (network: Network) => unknown) => model.data.networks.some(test);
  const column = (name: string) => (item: Item, side: 0 | 1 = 0) => costs.column(item, name, side);
  const traffic = (prefix: string) => (item: Item, side: 0 | 1 = 0) =>
    both(costs.column(item, `${prefix}reads`, side), costs.column(item, `${prefix}writes`, side), (x, y) => x + y);
  const timing = (which: "predicted" | "measured") => (item: Item, side: 0 | 1 = 0) => costs.seconds(item, model.data.networks[side]?.[which]);
  const all: (Metric | false)[] = [
    { id: "flops", name: "FLOPs", of: column("flops"), show: (x) => quantity(x, "FLOPs"), additive: true },
    { id: "bytes", name: "bytes moved", of: traffic(""), show: bytes, additive: true },
    model.data.cost_columns.includes("fused_reads") && { id: "fused", name: "bytes moved, fused", of: traffic("fused_"), show: bytes, additive: true },
    { id: "parameters", name: "parameters", of: (item, side) => ({ value: costs.parameters(item, side).count, partial: false }), show: (x) => quantity(x), additive: true },
    has((network) => network.memory) && { id: "peak", name: "peak memory", of: (item, side) => costs.peakBytes(item, side), show: bytes, additive: true },
    has((network) => network.predicted) && { id: "predicted", name: "predicted time", of: timing("predicted"), show: duration, additive: true },
    has((network) => network.measured) && { id: "measured", name: "measured time", of: timing("measured"), show: duration, additive: true },
    {
      id: "intensity", name: "arithmetic intensity", additive: false, show: (x) => `${quantity(x)} FLOPs/B`,
      of: (item, side) => both(column("flops")(item, side), traffic(moved)(item, side), (x, y) => (y ? x / y : 0)),
    },
  ];
  const found = [...all.filter((metric): metric is Metric => !!metric), ...(model.data.networks[0]?.measures ?? []).map((measure) => worst(model, measure))];
  const differences = found.filter((metric) => metric.additive).map((metric): Metric => ({
    id: `difference-${metric.id}`, name: `${metric.name}, B − A`, additive: true, difference: true,
    show: (x) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${metric.show(Math.abs(x))}`,
    of: (item) => both(metric.of(item, 0), metric.of(item, 1), (x, y) => y - x),
  }));
  return model.compared ? [...found, ...differences] : found;
}
