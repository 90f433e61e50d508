// Puts the page together: the diagram, the panel, the plots, and what keys and buttons do.
import { Costs, metrics } from "./costs";
import { h, plain, replace, s } from "./dom";
import { Diagram } from "./diagram";
import { Model, type Item } from "./model";
import { Panel } from "./panel";
import { warm } from "./place";
import { Roofline } from "./roofline";
import type { Data } from "./schema";
import { Search } from "./search";
import { Sliders } from "./sliders";
import { Store } from "./state";
import { Table } from "./table";
import { Timeline } from "./timeline";
import { Treemap } from "./treemap";
import { walk } from "./walk";

const KEYS: [string, string][] = [
  ["arrows", "to the next box"], ["Enter", "open or close a block"], ["Backspace", "to the block around"], ["/", "search"], ["+ −", "zoom"],
  ["0 or f", "fit all"], ["Shift + arrows", "pan"], ["p", "the panel"], ["1 … 5", "timeline, treemap, roofline, table, sizes"], ["a", "open or close all"], ["n", "the next change, of two networks"], ["?", "this help"], ["Esc", "close"],
];

class Page {
  private store: Store;
  private diagram: Diagram;
  private panel: Panel;
  private search: Search;
  private sliders: Sliders;
  private plots: { id: string; name: string; element: HTMLElement; show(): void }[];
  private crumbs = h("ol", { class: "crumbs" });
  private drawer = h("section", { class: "drawer", "aria-label": "Plots", hidden: true });
  private tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Plots and sizes" });
  private heat!: HTMLSelectElement;
  private help = h("dialog", { "aria-label": "Keys" });
  private theme = "";
  private fromHere = "";
  private writing: ReturnType<typeof setTimeout> | undefined;

  constructor(private app: HTMLElement, data: Data) {
    const model = new Model(data);
    const costs = new Costs(model);
    this.store = new Store(model, costs, metrics(model, costs));
    const { store } = this;
    this.diagram = new Diagram(store);
    this.panel = new Panel(store);
    this.search = new Search(store, (item) => this.reveal(item));
    this.sliders = new Sliders(store);
    const [timeline, treemap, roofline, table] = [new Timeline(store), new Treemap(store), new Roofline(store), new Table(store)];
    this.plots = [
      { id: "memory", name: "Memory", element: timeline.element, show: () => timeline.show() },
      { id: "treemap", name: "Treemap", element: treemap.element, show: () => treemap.show() },
      { id: "roofline", name: "Roofline", element: roofline.element, show: () => roofline.show() },
      { id: "table", name: "Table", element: table.element, show: () => table.show() },
      ...(this.sliders.any ? [{ id: "sizes", name: "Sizes", element: this.sliders.element, show: () => this.sliders.show() }] : []),
    ];
    document.title = `${plain(data.title)} · tdagger`;
    this.build(data);
    store.listen((changes) => this.update(changes));
    addEventListener("hashchange", () => location.hash.slice(1) !== this.fromHere && this.store.go(location.hash));
    addEventListener("resize", () => this.resized());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  start(): void {
    const { store } = this;
    if (location.hash.length > 1) store.go(location.hash);
    else {
      if (store.model.compared) store.heat = "difference-flops";
      store.guessed = !store.model.data.asked;
      for (const path of store.model.data.open ?? []) {
        const item = store.model.at(path.join("."));
        for (const one of item ? store.model.trail(item) : []) if (one.parent && one.block) store.open.add(one.id);
      }
      store.changed("open", "selected", "heat", "tab");
    }
  }

  private reveal(item: Item): void {
    this.store.reveal(item);
    this.diagram.after(() => this.diagram.focus(item));
  }

  private button(label: string, text: string | Node, click: () => void, id = ""): HTMLButtonElement {
    return h("button", { type: "button", "aria-label": label, title: label, id: id || null, click }, text);
  }

  private icon(d: string): SVGElement {
    return s("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", class: "icon" }, s("path", { d }));
  }

  private build(data: Data): void {
    const { store, diagram } = this;
    this.heat = h("select", { id: "heat", change: () => {
      store.heat = this.heat.value;
      store.changed("heat");
    } }, h("option", { value: "kind" }, "kind of op"), store.metrics.map((metric) => h("option", { value: metric.id }, metric.name)));
    const sized = h("input", { type: "checkbox", id: "sized", change: () => {
      store.sized = sized.checked;
      store.changed("heat", "open");
    } });
    store.listen(() => (sized.checked = store.sized));
    const names = data.networks.map((network, i) => (data.networks.length > 1 ? `${i ? "B" : "A"}: ${network.name}` : network.name)).join("   ");
    const header = h("header", {},
      h("h1", { title: names }, data.title),
      this.search.element,
      h("div", { class: "tools" },
        h("label", { for: "heat" }, "Colour"), this.heat,
        h("label", { class: "check", for: "sized" }, sized, "size too"),
        this.button("Light or dark", this.icon("M8 1a7 7 0 1 0 0 14z M8 1a7 7 0 0 1 0 14"), () => this.switch(), "theme"),
        this.button("Keys", "?", () => this.help.showModal(), "help")));
    const controls = h("div", { class: "controls", role: "toolbar", "aria-label": "Zoom" },
      this.button("Zoom in", "+", () => diagram.viewport.zoom(1.3)),
      this.button("Zoom out", "−", () => diagram.viewport.zoom(1 / 1.3)),
      this.button("Fit all", this.icon("M2 6V2h4 M10 2h4v4 M14 10v4h-4 M6 14H2v-4"), () => diagram.fit(), "fit"),
      this.button("Across or down", this.icon("M3 8h9 M9 4.5L12.5 8L9 11.5"), () => {
        store.across = !store.across;
        diagram.fit();
      }, "across"),
      this.button("Open or close all", this.icon("M2 4l3 3l3-3 M2 9l3 3l3-3 M11 4h4 M11 8h4 M11 12h4"), () => this.all(), "all"));
    const nav = h("nav", { "aria-label": "Where" }, this.crumbs);
    const main = h("main", {}, h("div", { class: "stage" }, nav, diagram.element, controls, diagram.legend), this.panel.element);
    this.drawer.append(...this.plots.map((plot) => {
      const pane = h("div", { role: "tabpanel", id: `pane-${plot.id}`, "aria-labelledby": `tab-${plot.id}`, hidden: true, class: "pane" }, plot.element);
      return pane;
    }));
    this.tabs.append(...this.plots.map((plot, i) => h("button", { type: "button", role: "tab", id: `tab-${plot.id}`, "aria-controls": `pane-${plot.id}`, "aria-selected": "false", tabindex: i ? -1 : 0,
      click: () => this.tab(plot.id),
      keydown: (event: KeyboardEvent) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by) return;
        event.stopPropagation();
        (this.tabs.children[(i + by + this.plots.length) % this.plots.length] as HTMLElement).focus();
      } }, plot.name)));
    const panelSwitch = this.button("Panel", this.icon("M2 3h12v10H2z M10 3v10"), () => this.panelSwitch(), "panel-switch");
    this.help.append(h("h2", {}, "Keys"), h("dl", {}, KEYS.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])), h("p", {}, "The address holds what is open and selected: copy it to link to a place. Wheel scrolls, Ctrl + wheel zooms."), h("form", { method: "dialog" }, h("button", {}, "Close")));
    replace(this.app, header, main, h("footer", {}, this.tabs, panelSwitch), this.drawer, this.help);
    if (innerWidth < 760) this.app.classList.add("no-panel");
  }

  /** The next op that only one network has, or that changed. */
  private nextChange(): void {
    const { model, selected } = this.store;
    const items = walk(model);
    const from = selected ? items.indexOf(selected) : -1;
    for (let i = 1; i <= items.length; i++) {
      const item = items[(from + i + items.length) % items.length];
      if ((item.state === "same" && (item.block || !this.store.marks(item).length)) || item.raw.moves || (item.block && item.state === "changed" && !item.raw.changes?.length)) continue;
      this.reveal(item);
      return;
    }
  }

  private panelSwitch(): void {
    this.app.classList.toggle("no-panel");
    this.resized();
  }

  private all(): void {
    const { store } = this;
    if (store.open.size) store.open.clear();
    else {
      // Outermost first, until there are as many boxes as can be taken in.
      let boxes = store.model.children(store.model.root).length;
      const todo = [...store.model.children(store.model.root)];
      for (let i = 0; i < todo.length; i++) {
        const item = todo[i];
        if (!item.block || boxes + item.block.items.length > 200) continue;
        store.open.add(item.id);
        boxes += item.block.items.length;
        todo.push(...store.model.children(item));
      }
    }
    this.diagram.fit();
  }

  private tab(id: string): void {
    this.store.tab = this.store.tab === id ? "" : id;
    this.store.changed("tab");
  }

  private switch(): void {
    const dark = this.theme ? this.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    this.theme = dark ? "light" : "dark";
    document.documentElement.dataset.theme = this.theme;
  }

  private resized(): void {
    this.diagram.scene.later();
    this.plots.find((plot) => plot.id === this.store.tab)?.show();
  }

  private update(changes: Set<string>): void {
    const { store } = this;
    this.heat.value = store.metric() ? store.heat : "kind";
    this.diagram.update(changes);
    if (changes.has("selected") || changes.has("sizes") || changes.has("open")) {
      this.panel.show();
      const trail = store.model.trail(store.selected ?? store.model.root);
      replace(this.crumbs, trail.map((item, i) => h("li", {}, i === trail.length - 1
        ? h("span", { "aria-current": "location" }, item.title)
        : h("button", { type: "button", class: "link", click: () => (item.parent ? this.reveal(item) : (store.select(null), this.diagram.fit())) }, item.title))));
    }
    if (changes.has("selected") && store.selected && innerWidth < 760 && !store.selected.block && !this.diagram.byKey) this.app.classList.remove("no-panel");
    if (changes.has("tab")) this.showTab();
    else this.plots.find((plot) => plot.id === store.tab)?.show();
    this.address();
  }

  private showTab(): void {
    const { tab } = this.store;
    const known = this.plots.some((plot) => plot.id === tab);
    this.drawer.hidden = !known;
    this.plots.forEach((plot, i) => {
      const on = plot.id === tab;
      (this.drawer.children[i] as HTMLElement).hidden = !on;
      this.tabs.children[i].setAttribute("aria-selected", String(on));
      this.tabs.children[i].setAttribute("tabindex", on || (!known && !i) ? "0" : "-1");
      if (on) plot.show();
    });
    this.diagram.scene.later();
  }

  /** Browsers refuse an address that changes as often as a slider does: it follows when nothing happens for a moment. */
  private address(): void {
    clearTimeout(this.writing);
    this.writing = setTimeout(() => this.write(), 150);
  }

  private write(): void {
    this.fromHere = this.store.place();
    try {
      history.replaceState(null, "", `#${this.fromHere}`);
    } catch (error) {
      if (!(error instanceof DOMException)) throw error; // a notebook's frame has no address of its own
    }
  }

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || this.help.open) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) {
      if (event.key === "Escape") this.diagram.focus(this.store.selected);
      return;
    }
    const { viewport } = this.diagram;
    const pan: Record<string, [number, number]> = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
    const plot = this.plots[Number(event.key) - 1];
    if (event.shiftKey && pan[event.key]) viewport.pan(...pan[event.key]);
    else if (event.key === "/") this.search.input.focus();
    else if (event.key === "+" || event.key === "=") viewport.zoom(1.25);
    else if (event.key === "-") viewport.zoom(0.8);
    else if (event.key === "0" || event.key === "f") this.diagram.fit();
    else if (event.key === "p") this.panelSwitch();
    else if (event.key === "a") this.all();
    else if (event.key === "?") this.help.showModal();
    else if (event.key === "n" && this.store.model.compared) this.nextChange();
    else if (event.key === "Escape" && this.store.tab) this.tab(this.store.tab);
    else if (plot) this.tab(plot.id);
    else return;
    event.preventDefault();
  }
}

const app = document.getElementById("app") as HTMLElement;
const text = document.getElementById("tdagger-data")?.textContent ?? "null";
try {
  const data = JSON.parse(text) as Data | null;
  if (!data) throw new Error("this page holds no network: `tdagger view SOURCE -o net.html` writes one that does");
  warm();
  new Page(app, data).start();
} catch (error) {
  replace(app, h("p", { class: "warning", role: "alert" }, String((error as Error).message)));
  throw error;
}
