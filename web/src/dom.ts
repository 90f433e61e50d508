// Elements. Text is always a text node and never parsed: names in a network are anybody's.

type Attributes = Record<string, string | number | boolean | null | undefined | ((event: any) => void)>;
export type Content = Node | string | number | null | undefined | Content[];

/** Fonts of boxes and labels, as in style.css: texts are measured in them. */
export const FONT = "600 13px system-ui, sans-serif";
export const SMALL = "11px system-ui, sans-serif";
export const MONO = "11px ui-monospace, Menlo, Consolas, monospace";

const SVG = "http://www.w3.org/2000/svg";

/** A text without what could turn the text around it: controls and marks of direction are written as what they are. */
export function plain(text: string): string {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function fill(element: Element, attributes: Attributes, content: Content[]): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, plain(String(value)));
  }
  add(element, content);
}

export function add(element: Node, content: Content): void {
  if (Array.isArray(content)) for (const part of content) add(element, part);
  else if (content instanceof Node) element.appendChild(content);
  else if (content !== null && content !== undefined) element.appendChild(document.createTextNode(plain(String(content))));
}

/** An HTML element; an attribute that is a function listens to the event of that name. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Attributes = {}, ...content: Content[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  fill(element, attributes, content);
  return element;
}

/** An SVG element. */
export function s<K extends keyof SVGElementTagNameMap>(tag: K, attributes: Attributes = {}, ...content: Content[]): SVGElementTagNameMap[K] {
  const element = document.createElementNS(SVG, tag);
  fill(element, attributes, content);
  return element;
}

export function replace(element: Element, ...content: Content[]): void {
  element.textContent = "";
  add(element, content);
}

const canvas = document.createElement("canvas").getContext("2d") as CanvasRenderingContext2D;
const widths = new Map<string, number>();

/** Width of a text in pixels. */
export function width(text: string, font: string): number {
  const key = font + text;
  let known = widths.get(key);
  if (known === undefined) {
    canvas.font = font;
    known = canvas.measureText(text).width;
    widths.set(key, known);
  }
  return known;
}

/** The text, cut in the middle where it is longer than so many pixels. */
export function cut(text: string, pixels: number, font: string): string {
  if (width(text, font) <= pixels) return text;
  let low = 1;
  let high = text.length;
  const short = (n: number) => `${text.slice(0, Math.ceil(n * 0.6))}…${text.slice(text.length - Math.floor(n * 0.4))}`;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (width(short(middle), font) <= pixels) low = middle;
    else high = middle - 1;
  }
  return short(low);
}
