// Pan and zoom: the mouse drags, a wheel scrolls, a wheel with Ctrl (and two fingers) zooms. Buttons and keys call the same functions.

export interface View {
  x: number; // of the scene's corner, in pixels
  y: number;
  k: number; // zoom
}

const LEAST = 0.02;
const MOST = 4;
const ABOVE = 38; // pixels of the crumbs
const BESIDE = 52; // of the buttons

export class Viewport {
  view: View = { x: 0, y: 0, k: 1 };
  private fingers = new Map<number, { x: number; y: number }>();
  below = 34; // pixels of the legend
  moved = false; // since the button went down: then a click is no click

  constructor(private element: Element, private changed: () => void) {
    element.addEventListener("wheel", (event) => this.wheel(event as WheelEvent), { passive: false });
    element.addEventListener("pointerdown", (event) => this.down(event as PointerEvent));
    element.addEventListener("pointermove", (event) => this.move(event as PointerEvent));
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, (event) => this.up(event as PointerEvent));
  }

  get size(): { w: number; h: number } {
    const { width, height } = this.element.getBoundingClientRect();
    return { w: width, h: height };
  }

  set(view: View): void {
    this.view = { ...view, k: Math.min(MOST, Math.max(LEAST, view.k)) };
    this.changed();
  }

  pan(dx: number, dy: number): void {
    this.set({ ...this.view, x: this.view.x + dx, y: this.view.y + dy });
  }

  zoom(factor: number, at?: { x: number; y: number }): void {
    const { w, h } = this.size;
    const { x, y } = at ?? { x: w / 2, y: h / 2 };
    const k = Math.min(MOST, Math.max(LEAST, this.view.k * factor));
    const ratio = k / this.view.k;
    this.set({ k, x: x - (x - this.view.x) * ratio, y: y - (y - this.view.y) * ratio });
  }

  /** What the crumbs, the buttons and the legend leave. */
  get free(): { w: number; h: number } {
    const { w, h } = this.size;
    return { w: w - Math.min(24, w / 20) - BESIDE, h: h - ABOVE - this.below };
  }

  /** All of the scene, no larger than it is; `least` is the smallest zoom, below which the top is shown and the rest scrolls. */
  fit(scene: { w: number; h: number }, least = LEAST): void {
    const { w } = this.size;
    const { w: wide, h: free } = this.free;
    const k = Math.max(least, Math.min(Math.max(1.25, Math.min(2.2, w / 1300)), wide / scene.w, free / scene.h));
    this.set({ k, x: Math.min(24, w / 20) + (wide - scene.w * k) / 2, y: ABOVE + Math.max(0, (free - scene.h * k) / 2) });
  }

  /** Pans no further than needed to show the rectangle (of the scene). */
  show(box: { x: number; y: number; w: number; h: number }): void {
    const { w, h } = this.size;
    const margin = 40;
    const { view } = this;
    const k = view.k < 0.45 ? Math.min(0.9, Math.max(view.k, Math.min((w - 80) / box.w, (h - 80) / box.h))) : view.k;
    if (k !== view.k) {
      this.set({ k, x: w / 2 - (box.x + box.w / 2) * k, y: h / 3 - box.y * k });
      return;
    }
    const left = box.x * k + view.x;
    const top = box.y * k + view.y;
    const right = left + box.w * k;
    const bottom = top + Math.min(box.h * k, h - 2 * margin);
    const dx = left < margin || box.w * k > w - 2 * margin ? margin - left : right > w - margin ? w - margin - right : 0;
    const dy = top < margin ? margin - top : bottom > h - margin ? h - margin - bottom : 0;
    const far = right < 0 || left > w || bottom < 0 || top > h;
    if (far) this.set({ k, x: w / 2 - (box.x + box.w / 2) * k, y: h / 3 - box.y * k });
    else if ((dx && (right > w - margin || left < margin)) || dy) this.pan(dx, dy);
  }

  private at(event: { clientX: number; clientY: number }): { x: number; y: number } {
    const { left, top } = this.element.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : 1;
    if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(-event.deltaY * unit * 0.0025), this.at(event));
    else if (event.shiftKey && !event.deltaX) this.pan(-event.deltaY * unit, 0);
    else this.pan(-event.deltaX * unit, -event.deltaY * unit);
  }

  private down(event: PointerEvent): void {
    if (event.button > 0) return;
    this.moved = false;
    this.fingers.set(event.pointerId, this.at(event));
  }

  private move(event: PointerEvent): void {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const now = this.at(event);
    if (!this.moved && Math.hypot(now.x - before.x, now.y - before.y) < 4) return;
    if (!this.moved) this.element.setPointerCapture(event.pointerId);
    this.moved = true;
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const ratio = Math.hypot(now.x - other.x, now.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
      this.zoom(ratio, { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
    } else this.pan(now.x - before.x, now.y - before.y);
    this.fingers.set(event.pointerId, now);
  }

  private up(event: PointerEvent): void {
    this.fingers.delete(event.pointerId);
  }
}
