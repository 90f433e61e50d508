// The tree of boxes, opened as it is looked at: what a body holds stands in the JSON once, and is an `Item` wherever somebody opened it.
import { plain } from "./dom";
import type { Body, Data, Flow, OpFields, OpKind, RawItem, State } from "./schema";

export interface Item {
  id: number;
  parent: Item | null;
  index: number; // in the body of its parent
  raw: RawItem;
  block: Body | null; // what it holds; null: an op
  path: string; // numbers of items from the root's body inwards; "" the root
  depth: number;
  title: string;
  subtitle: string;
  count: number; // how often it is repeated
  kind: string; // for the colour
  state: State;
}

export interface Part {
  port: number; // of the giver
  into: number; // of the taker
  type: number;
  n: number;
  side: "a" | "b" | null;
}

/** Values from one box to another; of control flow (`when`) the slots that it carries. */
export interface Link {
  from: string;
  to: string;
  parts: Part[];
  when?: { text: string; full: string };
  side?: "a" | "b";
}

export interface Content {
  children: Item[];
  links: Link[];
  ports: { id: string; input: boolean; ports: number[]; title: string; next: boolean; named: boolean }[];
}

/** What a colour says, and the words in a name that it goes by. */
const KINDS: [string, RegExp][] = [
  ["attention", /attention|attn|sdpa/i],
  ["norm", /norm|rms/i],
  ["conv", /conv/i],
  ["recurrent", /lstm|gru|rnn/i],
  ["linear", /linear|matmul|einsum|contract|addmm|bmm|mlp|dense|gemm|product|experts/i],
  ["activation", /relu|gelu|silu|sigmoid|tanh|softmax|swish|mish|elu|hardswish|softplus|activation|glu\b/i],
  ["pool", /pool|interpolate|upsample|downsample|resize/i],
  ["index", /embedding|gather|scatter|argsort|topk|one_hot|take/i],
];
const MOVES = /^(permute|group|ungroup|slice|pad|concat|repeat|unfold|fold|split|chunk|stack|flatten|reshape|transpose|identity|cast|bitcast|roll|dropout)$/;
const SOURCES = /^(const|iota|random|input|parameter|buffer|full)$/;

function kindOf(raw: RawItem, op: OpKind | null): string {
  const name = op ? op.op : (raw.kind ?? raw.name ?? "");
  if (op?.external) return "external";
  for (const [kind, words] of KINDS) if (words.test(name)) return kind;
  if (!op) return "block";
  if (op.view || MOVES.test(name)) return "move";
  return SOURCES.test(name) ? "index" : "elementwise";
}

/** How many parameters an op reads in network A or B. */
function weights(raw: RawItem, side: 0 | 1): number {
  if (raw.state === (side ? "a" : "b")) return 0;
  return (side ? (raw.b?.weights ?? raw.weights) : raw.weights)?.length ?? 0;
}

export class Model {
  readonly root: Item;
  readonly items: Item[] = [];
  private byPath = new Map<string, Item>();
  private children_ = new Map<Item, Item[]>();
  private contents = new Map<Item, Content>();
  private starts_ = new Map<Body, { ops: number[]; slots: [number[], number[]] }>();
  /** Which of the repetitions is looked at, by item; 0 where not said. */
  instance = new Map<number, number>();

  constructor(readonly data: Data) {
    if (data.schema !== "tdagger.view") throw new Error("this isn't the JSON of a view: there is no schema tdagger.view");
    if (data.version !== 1) throw new Error(`this page reads version 1 of the JSON of views, not version ${data.version}`);
    this.root = this.make(null, -1, { body: data.root, name: data.title });
  }

  get compared(): boolean {
    return this.data.networks.length > 1;
  }

  private make(parent: Item | null, index: number, raw: RawItem): Item {
    const block = raw.body === undefined ? null : this.data.bodies[raw.body];
    const op = block ? null : this.data.ops[raw.op as number];
    const attributes = Object.entries(op?.attributes ?? {});
    const item: Item = {
      id: this.items.length,
      parent,
      index,
      raw,
      block,
      path: parent ? (parent.path ? `${parent.path}.${index}` : String(index)) : "",
      depth: parent ? parent.depth + 1 : 0,
      title: plain(raw.name ?? op?.op ?? raw.kind ?? "block"),
      subtitle: raw.writes ? this.says(raw) : op ? [raw.name ? op.op : "", ...attributes.map(([name, value]) => `${name} ${value}`)].filter((part) => part).join(", ") : raw.kind && raw.kind !== raw.name ? raw.kind : "",
      count: raw.times ?? 1,
      kind: kindOf(raw, op),
      state: raw.state ?? "same",
    };
    this.items.push(item);
    this.byPath.set(item.path, item);
    return item;
  }

  /** What a block of a program is, in one line: what it sets to something that is known, what it refuses. */
  private says(raw: RawItem): string {
    const set = (raw.writes ?? []).filter(([, text]) => text).map(([slot, text]) => `${this.slot(slot)} ← ${text}`);
    return raw.raises === undefined ? set.join(", ") : `raises ${raw.raises}`;
  }

  /** The name of a slot of a program. */
  slot(n: number): string {
    return this.data.program?.slots[n].name ?? "";
  }

  children(item: Item): Item[] {
    let found = this.children_.get(item);
    if (!found) {
      found = (item.block?.items ?? []).map((raw, i) => this.make(item, i, raw));
      this.children_.set(item, found);
    }
    return found;
  }

  /** The item at a path of the address; null if there is none. */
  at(path: string): Item | null {
    let item: Item | null = this.root;
    for (const step of path ? path.split(".") : []) item = item?.block ? (this.children(item)[Number(step)] ?? null) : null;
    return item;
  }

  opKind(item: Item, side: 0 | 1 = 0): OpKind | null {
    const op = this.fields(item, side).op;
    return op === undefined ? null : this.data.ops[op];
  }

  /** The fields of an op in network A or B. */
  fields(item: Item, side: 0 | 1): Partial<OpFields> {
    return side && item.raw.b ? { ...item.raw, ...item.raw.b } : item.raw;
  }

  type(n: number): { numbers: string; axes: string; bytes: number } {
    return this.data.types[n];
  }

  /** Names of the modules around it, as the framework writes the path. */
  modulePath(item: Item): string {
    const names: string[] = [];
    for (let one: Item | null = item; one?.parent; one = one.parent) {
      if (one.raw.module || (!one.block && one.raw.name)) names.push(one.raw.names?.[this.instance.get(one.id) ?? 0] ?? one.raw.name ?? "");
    }
    return names.reverse().join(".");
  }

  /** The module path around it, and its own name or op: for lists, where nothing around it is seen. */
  label(item: Item): { around: string; own: string } {
    const named = item.block ? item.raw.module : item.raw.name;
    return { around: this.modulePath(named && item.parent ? item.parent : item), own: item.title };
  }

  /** What is around it, from the network inwards, it last. */
  trail(item: Item): Item[] {
    const found: Item[] = [];
    for (let one: Item | null = item; one; one = one.parent) found.push(one);
    return found.reverse();
  }

  /** First numbers of the ops and of the slots of a body's items, from the body's own first. */
  starts(body: Body): { ops: number[]; slots: [number[], number[]] } {
    let found = this.starts_.get(body);
    if (!found) {
      found = { ops: [], slots: [[], []] };
      let op = 0;
      const slot: [number, number] = [0, 0];
      for (const raw of body.items) {
        const inner = raw.body === undefined ? null : this.data.bodies[raw.body];
        found.ops.push(op);
        op += inner ? (raw.times ?? 1) * inner.ops : 1;
        for (const side of [0, 1] as const) {
          found.slots[side].push(slot[side]);
          slot[side] += inner ? (raw.times ?? 1) * (inner.slots[side] ?? 0) : weights(raw, side);
        }
      }
      this.starts_.set(body, found);
    }
    return found;
  }

  /** The item's ops and slots in the lists over the opened tree: from, to (all its repetitions), as those around it are looked at. */
  range(item: Item, side: 0 | 1 = 0): { op: number; ops: number; slot: number; slots: number } {
    const around = this.trail(item);
    let [op, slot] = [0, 0];
    for (let i = 1; i < around.length; i++) {
      const one = around[i];
      const starts = this.starts((around[i - 1].block as Body));
      op += starts.ops[one.index];
      slot += starts.slots[side][one.index];
      const k = this.instance.get(one.id) ?? 0;
      if (one !== item && one.block) {
        op += k * one.block.ops;
        slot += k * (one.block.slots[side] ?? 0);
      }
    }
    return { op, slot, ops: item.block ? item.count * item.block.ops : 1, slots: item.block ? item.count * (item.block.slots[side] ?? 0) : weights(item.raw, side) };
  }

  /** The op of that number, and which repetition of what is around it. */
  opAt(number: number): { item: Item; instances: [Item, number][] } {
    let item = this.root;
    let rest = number;
    const instances: [Item, number][] = [];
    while (item.block) {
      const { ops } = this.starts(item.block);
      let [low, high] = [0, ops.length - 1];
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (ops[middle] <= rest) low = middle;
        else high = middle - 1;
      }
      rest -= ops[low];
      item = this.children(item)[low];
      if (item.block) {
        const k = Math.floor(rest / item.block.ops);
        rest -= k * item.block.ops;
        if (item.count > 1) instances.push([item, k]);
      }
    }
    return { item, instances };
  }

  /** Boxes and links of one block; values at its edge are boxes of their own. */
  content(item: Item): Content {
    const known = this.contents.get(item);
    if (known) return known;
    const body = item.block as Body;
    const children = this.children(item);
    if (body.flow) {
      const found = this.flow(item, body, body.flow);
      this.contents.set(item, found);
      return found;
    }
    const links = new Map<string, Link>();
    const ports = new Map<string, Content["ports"][number]>();
    const chained = { in: new Set(item.raw.chain?.map(([, i]) => i)), out: new Set(item.raw.chain?.map(([o]) => o)) };
    const edge = (input: boolean, port: number): string => {
      const id = `${item.id}${input ? "i" : "o"}${port}`;
      const kind = input ? "in" : "out";
      const name = (input ? body.inputs : body.outputs)[port]?.name;
      if (!ports.has(id)) ports.set(id, { id, input, ports: [port], title: name ?? `${input ? "input" : "output"} ${port}`, next: chained[kind].has(port), named: name !== undefined || !item.parent });
      return id;
    };
    for (const [from, port, to, into, type, n, side] of body.edges) {
      const a = from === -1 ? edge(true, port) : String(children[from].id);
      const b = to === -2 ? edge(false, into) : String(children[to].id);
      const key = `${a}>${b}`;
      let link = links.get(key);
      if (!link) links.set(key, (link = { from: a, to: b, parts: [] }));
      link.parts.push({ port, into, type, n: n ?? 1, side: side ?? null });
    }
    const found = bundled({ children, links: [...links.values()], ports: [...ports.values()] });
    this.contents.set(item, found);
    return found;
  }

  /** Blocks of a program and the control flow between them. */
  private flow(item: Item, body: Body, flow: Flow[]): Content {
    const children = this.children(item);
    const slots = this.data.program?.slots ?? [];
    const end = (input: boolean) => {
      const names = (input ? body.inputs : body.outputs).map((port) => port.name).join(", ");
      return { id: `${item.id}${input ? "i" : "o"}`, input, ports: [], title: input ? names || "begin" : `return ${names}`, next: false, named: true };
    };
    const links = flow.map(({ from, to, when, carries, side }): Link => {
      const names = carries.map((n) => slots[n].name);
      const shown = names.length > CARRIED ? [...names.slice(0, CARRIED - 1), `${names.length - CARRIED + 1} more`] : names;
      const full = [when, ...carries.map((n) => `${slots[n].name}: ${this.type(slots[n].type).axes}`)];
      return {
        from: from < 0 ? `${item.id}i` : String(children[from].id), to: to < 0 ? `${item.id}o` : String(children[to].id),
        parts: carries.map((n) => ({ port: -1, into: -1, type: slots[n].type, n: 1, side: side ?? null })), side,
        when: { text: [when, shown.join(", ")].filter((part) => part).join(": "), full: full.filter((part) => part).join("\n") },
      };
    });
    const ports = [true, false].filter((input) => flow.some((one) => (input ? one.from : one.to) < 0)).map(end);
    return { children, links, ports };
  }
}

const CARRIED = 4; // slots that are written at an edge
const FEW = 3; // values at the edge of a block that come from, or go to, the same boxes and are shown one by one

/** Many values at the edge that go the same way (the caches of all layers) are one. */
function bundled({ children, links, ports }: Content): Content {
  const ways = new Map<string, string>();
  for (const { from, to } of links) {
    ways.set(from, `${ways.get(from) ?? ""}>${to}`);
    ways.set(to, `${ways.get(to) ?? ""}<${from}`);
  }
  const groups = new Map<string, Content["ports"]>();
  for (const port of ports) {
    const key = `${ways.get(port.id)}${port.next}`;
    groups.set(key, [...(groups.get(key) ?? []), port]);
  }
  const into = new Map<string, string>();
  const left: Content["ports"] = [];
  for (const group of groups.values()) {
    if (group.length <= FEW) {
      left.push(...group);
      continue;
    }
    const [first] = group;
    for (const port of group) into.set(port.id, first.id);
    left.push({ ...first, ports: group.flatMap((port) => port.ports), title: `${common(group.map((port) => port.title))} (${group.length})` });
  }
  if (!into.size) return { children, links, ports };
  const joined = new Map<string, Link>();
  for (const link of links) {
    const [from, to] = [into.get(link.from) ?? link.from, into.get(link.to) ?? link.to];
    const known = joined.get(`${from}>${to}`);
    if (known) known.parts.push(...link.parts);
    else joined.set(`${from}>${to}`, { from, to, parts: [...link.parts] });
  }
  return { children, links: [...joined.values()], ports: left };
}

/** What names begin with, and … for the rest. */
function common(names: string[]): string {
  let length = 0;
  while (length < names[0].length && names.every((name) => name[length] === names[0][length])) length++;
  return `${names[0].slice(0, length)}…`;
}

/** The item of a module path (`model.layers.30.mlp`), and which repetitions that goes through; null if there is none. */
export function resolve(model: Model, path: string): { item: Item; instances: [Item, number][] } | null {
  let item = model.root;
  let rest = path;
  const instances: [Item, number][] = [];
  for (;;) {
    let next: { item: Item; k: number; left: string } | null = null;
    const todo = [...model.children(item)];
    for (let i = 0; i < todo.length && !next; i++) {
      const child = todo[i];
      if (child.block && !child.raw.module) todo.push(...model.children(child)); // found by structure: no step of the path
      else if (!child.raw.name) continue;
      (child.raw.names ?? [child.raw.name ?? ""]).forEach((name, k) => {
        if (name && child.raw.name && (rest === name || rest.startsWith(`${name}.`))) next = { item: child, k, left: rest.slice(name.length + 1) };
      });
    }
    const step = next as { item: Item; k: number; left: string } | null;
    if (!step) return null;
    item = step.item;
    if (item.count > 1) instances.push([item, step.k]);
    if (!step.left || !item.block) return { item, instances };
    rest = step.left;
  }
}
