// Work against bytes: how many FLOPs an op does for each byte it moves, and how fast it runs where a device or a profile says so.
import { h, replace, s } from "./dom";
import type { Item } from "./model";
import { quantity } from "./numbers";
import type { Store } from "./state";
import { walk } from "./walk";

const HEIGHT = 190;
const MOST = 600; // points: those with the most work

interface Dot {
  item: Item;
  x: number; // FLOPs a byte
  y: number; // FLOPs, or FLOPs a second
  flops: number;
}

export class Roofline {
  readonly element = h("div", { class: "plot" });

  constructor(private store: Store) {}

  private dots(): Dot[] {
    const { model, costs, metrics } = this.store;
    const intensity = metrics.find((metric) => metric.id === "intensity");
    const found: Dot[] = [];
    for (const item of walk(model)) {
      if (item.block) continue;
      const side = item.state === "b" ? 1 : 0;
      const network = model.data.networks[side];
      const flops = costs.column(item, "flops", side).value;
      const x = intensity?.of(item, side).value;
      if (!flops || !x) continue;
      const seconds = costs.seconds(item, network.measured ?? network.predicted).value;
      const timed = network.measured ?? network.predicted;
      if (timed && !seconds) continue;
      found.push({ item, x, y: timed ? flops / (seconds as number) : flops, flops });
    }
    return found.sort((a, b) => b.flops - a.flops).slice(0, MOST);
  }

  show(): void {
    const { store } = this;
    const dots = this.dots();
    if (!dots.length) {
      replace(this.element, h("p", { class: "small" }, "There is no op whose FLOPs and bytes are both known."));
      return;
    }
    const [network] = store.model.data.networks;
    const roof = network.predicted?.roofline;
    const timed = network.measured ?? network.predicted;
    const w = Math.max(300, Math.min(this.element.clientWidth - 10, 1100));
    const height = Math.max(HEIGHT, this.element.clientHeight - 34);
    const bounds = (values: number[]) => [Math.floor(Math.log10(Math.min(...values)) - 0.1), Math.ceil(Math.log10(Math.max(...values)) + 0.1)];
    const ridge = roof ? roof.flops / roof.bytes : 0;
    const [x0, x1] = bounds([...dots.map((dot) => dot.x), ...(roof ? [ridge * 3] : [])]);
    const [y0, y1] = bounds([...dots.map((dot) => dot.y), ...(roof ? [roof.flops] : [])]);
    const x = (value: number) => 76 + ((Math.log10(value) - x0) / (x1 - x0)) * (w - 92);
    const y = (value: number) => 10 + (1 - (Math.log10(value) - y0) / (y1 - y0)) * (height - 52);
    const svg = s("svg", { width: w, height, role: "group", "aria-label": "Roofline plot" });
    for (let e = x0; e <= x1; e++) svg.append(s("g", { class: "tick" }, s("line", { x1: x(10 ** e), x2: x(10 ** e), y1: 10, y2: height - 42 }), s("text", { x: x(10 ** e), y: height - 27, "text-anchor": "middle" }, quantity(10 ** e))));
    for (let e = y0; e <= y1; e += Math.ceil((y1 - y0) / 5)) svg.append(s("g", { class: "tick" }, s("line", { x1: 76, x2: w - 16, y1: y(10 ** e), y2: y(10 ** e) }), s("text", { x: 70, y: y(10 ** e) + 4, "text-anchor": "end" }, quantity(10 ** e, timed ? "/s" : ""))));
    svg.append(s("text", { class: "name", x: w / 2, y: height - 9, "text-anchor": "middle" }, `FLOPs for each byte moved${timed ? ` · up: FLOPs per second, ${store.model.data.networks[0].measured ? "measured" : "predicted"}` : " · up: FLOPs"}`));
    if (roof) {
      const low = 10 ** x0;
      svg.append(s("path", { class: "roof", d: `M${x(low)} ${y(Math.max(10 ** y0, low * roof.bytes))}L${x(ridge)} ${y(roof.flops)}L${x(10 ** x1)} ${y(roof.flops)}` }));
    }
    dots.reverse().forEach((dot, i) => svg.append(this.point(dot, x(dot.x), y(dot.y), i >= dots.length - 40)));
    replace(this.element, svg);
  }

  private point(dot: Dot, cx: number, cy: number, large: boolean): SVGCircleElement {
    const { store } = this;
    const { item } = dot;
    const on = store.selected === item;
    const { around, own } = store.model.label(item);
    const name = `${around} ${own}: ${quantity(dot.flops, "FLOPs")}, ${quantity(dot.x)} for each byte`;
    return s("circle", { class: `point k-${item.kind}${on ? " on" : ""}`, cx, cy, r: on ? 7 : 4.5, role: "button", "aria-pressed": String(on), tabindex: large ? 0 : -1,
      click: () => store.reveal(item),
      keydown: (event: KeyboardEvent) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          store.reveal(item);
        }
      } }, s("title", {}, name));
  }
}
