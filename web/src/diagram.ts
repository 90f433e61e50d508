// The diagram: which boxes are open, what they look like, and how keys move among them.
import { h, replace } from "./dom";
import { Geometry, type Box } from "./geometry";
import type { Item } from "./model";
import { Scene, type Paint } from "./scene";
import type { Store } from "./state";
import { Viewport } from "./viewport";

const KINDS: [string, string][] = [
  ["block", "module or block"], ["conv", "convolution"], ["linear", "linear, product"], ["attention", "attention"], ["recurrent", "recurrent"], ["norm", "norm"],
  ["activation", "activation"], ["pool", "pool, resize"], ["index", "index, source"], ["elementwise", "elementwise"], ["move", "moves only"], ["external", "external"],
];

const READABLE = 0.6; // the smallest zoom of the first picture for which boxes stay open

export class Diagram {
  readonly element = h("div", { class: "canvas" });
  readonly legend = h("div", { class: "legend" });
  readonly scene: Scene;
  readonly viewport: Viewport;
  byKey = false; // the selection moved by a key
  private geometry: Geometry;
  private most = 0; // the highest heat in the picture
  private run = 0;
  private placed = false;
  private fitting = true;
  private waiting: (() => void)[] = [];
  private anchor: Item | null = null;

  constructor(private store: Store) {
    this.geometry = new Geometry(store.model);
    this.scene = new Scene({
      paint: (item) => this.paint(item),
      selected: () => store.selected,
      click: (item, head) => {
        this.byKey = false;
        if (item.block && head) this.toggle(item);
        store.select(item);
      },
      focus: (item) => {
        if (store.selected !== item && this.byKey) store.select(item);
      },
      key: (event, box) => this.key(event, box),
      nothing: () => store.select(null),
    }, `Diagram of ${store.model.data.title}`);
    this.element.append(this.scene.svg);
    this.viewport = new Viewport(this.scene.svg, () => this.scene.later());
    this.scene.viewport = this.viewport;
    this.scene.svg.addEventListener("pointerdown", () => (this.byKey = false));
  }

  toggle(item: Item): void {
    this.anchor = item;
    this.store.toggle(item);
  }

  /** Calls once the picture that was asked for is there. */
  after(call: () => void): void {
    this.waiting.push(call);
    this.store.changed("view");
  }

  /** All of the picture, in columns that suit the screen as it is now. */
  fit(): void {
    this.fitting = true;
    this.store.changed("open");
  }

  focus(item: Item | null): void {
    if (!item) {
      this.scene.svg.querySelector<SVGElement>("[tabindex='0']")?.focus();
      return;
    }
    const box = this.scene.find(String(item.id));
    if (box) this.viewport.show(box.open ? { ...box, h: Math.min(box.h, 160) } : box);
    this.scene.focus(item);
  }

  update(changes: Set<string>): void {
    if (changes.has("open") || changes.has("heat") || changes.has("sizes") || !this.placed) void this.arrange(changes.has("selected"));
    else {
      this.scene.draw();
      this.done();
      if (changes.has("selected")) this.bring();
    }
  }

  private bring(): void {
    const { selected } = this.store;
    const box = selected && this.scene.find(String(selected.id));
    if (box) this.viewport.show(box.open ? { ...box, h: Math.min(box.h, 160) } : box);
  }

  private done(): void {
    for (const call of this.waiting.splice(0)) call();
  }

  /** Lays out what changed; the box that was opened or closed stays where it is on the screen. */
  private async arrange(selected: boolean): Promise<void> {
    const { store } = this;
    const run = ++this.run;
    const metric = store.metric();
    const measure = store.measure();
    const { anchor, fitting } = this;
    this.anchor = null;
    const scale = this.scales();
    this.element.classList.add("busy");
    const root = await this.geometry.boxes({
      open: store.open,
      across: store.across,
      scale: (item) => (store.sized && metric ? scale(item) : 0),
      notes: (item) => {
        const { value, partial } = measure.of(item, item.state === "b" ? 1 : 0);
        const cost = value === null ? (measure.some ? "" : "not counted") : value ? `${partial ? "≥ " : ""}${measure.show(value)}` : "";
        return [cost, ...(measure.mark ? [] : store.marks(item))];
      },
    }, fitting ? this.viewport.free : null);
    if (!this.placed && this.fewer(root)) {
      await this.arrange(selected);
      return;
    }
    if (run !== this.run) return; // something was opened meanwhile: that picture is on its way
    const before = anchor && this.scene.find(String(anchor.id));
    this.scene.root = root;
    this.most = Math.max(0, ...this.scene.all().filter((box) => !box.open).map((box) => this.heat(box.item as Item) ?? 0));
    const now = anchor && this.scene.find(String(anchor.id));
    if (before && now) {
      const { k } = this.viewport.view;
      const middle = Math.abs(now.w - before.w) < 1 ? 0 : (now.w - before.w) / 2;
      this.viewport.view.x -= (now.x + middle - before.x) * k;
      this.viewport.view.y -= (now.y - before.y) * k;
    }
    this.explain();
    if (fitting) {
      this.fitting = false;
      this.viewport.fit(root, this.placed ? undefined : 0.3);
    }
    if (!this.placed) {
      this.placed = true;
      this.element.dataset.ready = "1";
      performance.mark("tdagger-first");
    }
    this.scene.show(root);
    this.element.dataset.run = String(run);
    this.element.classList.remove("busy");
    this.done();
    if (selected) this.bring();
  }

  /** Closes the innermost boxes of the first picture if it would be too small to be read; whether there were any. */
  private fewer(root: Box): boolean {
    const { store, viewport } = this;
    const { w, h: high } = viewport.free;
    if (!store.guessed || Math.min(w / root.w, high / root.h) >= READABLE || !store.open.size) return false;
    const open = [...store.open].map((id) => store.model.items[id]);
    const deepest = Math.max(...open.map((item) => item.depth));
    for (const item of open) if (item.depth === deepest) store.open.delete(item.id);
    return true;
  }

  private heat(item: Item): number | null {
    const metric = this.store.metric();
    if (!metric) return 0;
    const { value } = metric.of(item, item.state === "b" ? 1 : 0);
    if (metric.low) return value === null ? null : Math.max(0, 60 - value); // decibels: 60 and more are as good as equal
    return value === null ? null : Math.abs(value);
  }

  /** Size by heat: against the largest of the boxes beside it. */
  private scales(): (item: Item) => number {
    const most = new Map<Item | null, number>();
    return (item) => {
      let largest = most.get(item.parent);
      if (largest === undefined) {
        largest = Math.max(1e-300, ...(item.parent ? this.store.model.children(item.parent) : [item]).map((one) => this.heat(one) ?? 0));
        most.set(item.parent, largest);
      }
      return Math.sqrt((this.heat(item) ?? 0) / largest);
    };
  }

  private paint(item: Item): Paint {
    const { store } = this;
    const metric = store.metric();
    const measure = store.measure();
    const side = item.state === "b" ? 1 : 0;
    const { value, partial } = measure.of(item, side);
    const heat = this.heat(item);
    const says = value === null ? (measure.some ? "" : "not counted") : `${partial ? "at least " : ""}${measure.show(value)} ${metric?.name ?? measure.name}`;
    const state = item.raw.moves ? `for the layout of ${item.state.toUpperCase()}` : item.state === "same" ? "" : item.state === "a" ? "only in A" : item.state === "b" ? "only in B" : "changed";
    const marks = store.marks(item);
    const label = [item.title, item.subtitle, item.count > 1 ? `${item.count} times` : "", item.block ? `block of ${item.block.items.length}` : "op", says, state, ...marks].filter((part) => part).join(", ");
    const counted = measure.id === "flops" || metric ? (measure.some ? (value ?? 0) : value) : 0;
    return {
      heat: counted === null ? null : this.most && metric ? Math.sqrt((heat ?? 0) / this.most) : 0,
      less: (value ?? 0) < 0,
      classes: [metric ? "heated" : "", (value ?? 0) < 0 ? "less" : "", item.state === "same" ? "" : `st-${item.state}`, item.raw.moves ? "moves" : "", store.model.compared && item.state === "same" ? (marks.length ? "marked" : "equal") : ""].filter((part) => part).join(" "),
      label,
    };
  }

  private explain(): void {
    this.tell();
    this.viewport.below = Math.max(34, this.legend.offsetHeight + 12);
  }

  private tell(): void {
    const { store, legend: element } = this;
    const metric = store.metric();
    const states = store.model.compared ? ["a", "b", "changed"].map((state) => h("li", {}, h("span", { class: `swatch st-${state}` }), state === "changed" ? "changed" : `only in ${state.toUpperCase()}`)) : [];
    if (metric) {
      replace(element, h("ul", {}, states, h("li", {}, h("span", { class: `ramp${metric.difference ? " two" : ""}` }), metric.difference ? `${metric.name}: ${metric.show(-this.most)} to ${metric.show(this.most)}` : metric.low ? `${metric.name}: ${metric.show(60)} and more to ${metric.show(60 - this.most)}` : `${metric.name}: none to ${metric.show(this.most)}`), h("li", {}, h("span", { class: "swatch none" }), "not counted")));
      return;
    }
    const seen = new Set(this.scene.all().map((box) => box.item?.kind));
    replace(element, h("ul", {}, states, KINDS.filter(([kind]) => seen.has(kind)).map(([kind, name]) => h("li", {}, h("span", { class: `dot k-${kind}` }), name))));
  }

  private key(event: KeyboardEvent, box: Box): void {
    const item = box.item as Item;
    if (event.shiftKey || event.ctrlKey || event.altKey || event.metaKey) return;
    const directions: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.byKey = true;
    const direction = directions[event.key];
    if (direction) this.move(box, direction);
    else if (event.key === "Enter" || event.key === " ") {
      this.store.select(item);
      if (item.block) this.toggle(item);
    } else if (event.key === "Backspace" && item.parent?.parent) this.step(item.parent);
    else if (event.key === "Home") this.step(this.store.model.children(this.store.model.root)[0]);
    else if (event.key === "Escape") this.store.select(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  private step(item: Item): void {
    this.store.select(item);
    this.focus(item);
  }

  /** To the nearest box that way: along the direction counts once, aside three times. */
  private move(box: Box, [dx, dy]: [number, number]): void {
    const centre = (one: Box) => ({ x: one.x + one.w / 2, y: one.y + (one.open ? 17 : one.h / 2) });
    const from = centre(box);
    let best: Box | null = null;
    let least = Infinity;
    for (const one of this.scene.all()) {
      if (one === box) continue;
      const to = centre(one);
      const along = (to.x - from.x) * dx + (to.y - from.y) * dy;
      const aside = Math.abs((to.x - from.x) * dy) + Math.abs((to.y - from.y) * dx);
      if (along < 4) continue;
      const cost = along + 3 * aside;
      if (cost < least) [best, least] = [one, cost];
    }
    if (best?.item) this.step(best.item);
  }
}
