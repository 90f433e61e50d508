// Numbers as people read them.

const STEPS: [number, string][] = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

function three(x: number): string {
  const a = Math.abs(x);
  return a >= 100 ? x.toFixed(0) : a >= 10 ? x.toFixed(1) : x.toFixed(2);
}

/** 4.09 G; a unit follows the prefix. */
export function quantity(x: number, unit = ""): string {
  const a = Math.abs(x);
  for (const [step, prefix] of STEPS) if (a >= step * 0.9995) return `${three(x / step)} ${prefix}${unit}`;
  const plain = Number.isInteger(x) ? String(x) : x.toPrecision(3);
  return unit ? `${plain} ${unit}` : plain;
}

export function duration(seconds: number): string {
  const a = Math.abs(seconds);
  if (a >= 1) return `${three(seconds)} s`;
  if (a >= 1e-3) return `${three(seconds * 1e3)} ms`;
  return a >= 1e-6 || a === 0 ? `${three(seconds * 1e6)} µs` : `${three(seconds * 1e9)} ns`;
}

/** 8,206,475,904 */
export function exact(x: number): string {
  return x.toLocaleString("en-US", { maximumFractionDigits: 3 });
}

export function percent(x: number): string {
  if (x > 0 && x < 0.0001) return "< 0.01 %";
  return x >= 0.1 ? `${(x * 100).toFixed(0)} %` : `${(x * 100).toPrecision(2)} %`;
}
