// The JSON of a view, version 1: docs/view-json.md says what every field is.

export interface Data {
  schema: string;
  version: number;
  title: string;
  networks: Network[];
  types: { numbers: string; axes: string; bytes: number }[];
  ops: OpKind[];
  texts: string[];
  symbols: Symbol_[];
  formulas: Formula[];
  conditions: { formula: number; is: "zero" | "positive"; why: string }[];
  cost_columns: string[];
  costs: number[][];
  parameters: Parameter[];
  program?: { slots: Slot[] };
  bodies: Body[];
  root: number;
  open?: number[][];
  asked?: boolean; // somebody asked for these to be open
  notices?: string[]; // what the reader should know, such as what could not be found out
}

/** A tensor that goes from one block of a program to another. */
export interface Slot {
  name: string;
  type: number;
  buffer?: string;
  lengths?: [number, number][];
  state?: State; // of two programs
  b?: number; // its type in the second, if that is another
}

/** Control flow from a block of a program to one that may be next, and the slots that are needed there or later. */
export interface Flow {
  from: number;
  to: number;
  when: string;
  carries: number[];
  side?: "a" | "b"; // if only one of two programs goes that way
}

export interface OpKind {
  op: string;
  attributes?: Record<string, string>;
  text?: number | null;
  core?: boolean;
  view?: boolean;
  external?: boolean;
}

export interface Symbol_ {
  name?: string;
  size: number;
  sizes?: number[];
  axis?: boolean;
  certain?: boolean;
  runs?: boolean; // how often a block of a program is run
  function?: "floor" | "min" | "max" | "bits";
  of?: number[];
}

export interface Formula {
  value: number;
  terms?: number[][];
  unknown?: boolean;
}

export interface Histogram {
  low: number;
  high: number;
  counts: number[];
  mean: number;
  std: number;
  zeros: number;
  nonfinite: number;
  range?: [number, number]; // which is told apart
}

export interface Parameter {
  name: string;
  type: number;
  kind: "parameter" | "buffer" | "constant";
  trainable?: boolean;
  tied?: string;
  histogram?: Histogram | null;
  codes?: { low: number; high: number; ends: number }; // of integers that stand for floats: these, and the share at an end of the grid
  b?: number; // of two networks: the weight of B that stands for it, and how far that is off, by the norm
  change?: number;
}

export interface Port {
  type: number;
  name?: string;
}

/** from, port, to, port, type, how many values, which network */
export type RawEdge = [number, number, number, number, number, number?, ("a" | "b")?];

export interface Body {
  inputs: Port[];
  outputs: Port[];
  items: RawItem[];
  edges: RawEdge[];
  flow?: Flow[]; // between the blocks of a program
  ops: number;
  slots: number[]; // one number a network
}

export type State = "same" | "changed" | "a" | "b";

export interface OpFields {
  op: number;
  text: string;
  out: number[];
  cost: number | null;
  weights?: string[];
  source?: number | null;
  made?: string | null;
}

export interface RawItem extends Partial<OpFields> {
  body?: number;
  name?: string;
  kind?: string;
  module?: boolean;
  times?: number;
  names?: string[];
  chain?: [number, number][];
  shared?: number[];
  each?: number[];
  each_out?: number[];
  differs?: { from: number; what: string[] };
  state?: State;
  changes?: string[];
  moves?: boolean; // of one network alone: it only brings a value to the layout of its own
  runs?: number; // of a block: the symbol of how often it is run
  reads?: number[];
  writes?: [number, string][];
  raises?: string;
  b?: Partial<OpFields>;
}

export interface Timing {
  title?: string;
  device?: string;
  seconds: number;
  notices?: string[];
  each: (number | null)[];
  roofline?: { flops: number; bytes: number };
}

export interface Memory {
  order?: number[];
  op: number[];
  until: number[];
  bytes: number[];
  peak: number;
  at: number;
}

/** A number of every op; of a box the worst of those in it. */
export interface Measured {
  name: string;
  unit: string; // empty: a share
  worst: "high" | "low";
  each: (number | null)[];
  mark?: string; // what boxes with a number above 0 are marked with
}

export interface Network {
  name: string;
  source?: string;
  inputs?: Port[];
  outputs?: Port[];
  sizes?: Record<string, number>;
  totals: Record<string, number>;
  partial?: Record<string, number> | string[] | [string, number][];
  slots?: number[];
  memory?: Memory;
  predicted?: Timing;
  measures?: Measured[];
  said?: { name: string; each: (string | Histogram | null)[] }[]; // texts of ops, or how numbers are spread
  measured?: Timing;
}
