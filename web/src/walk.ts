// All items, or those that matter most.
import type { Costs, Metric } from "./costs";
import type { Item, Model } from "./model";

/** Every item once, what repeats once; no more than `most`. In the order of the tree. */
export function walk(model: Model, most = 400_000): Item[] {
  const found: Item[] = [];
  const todo: Item[] = [...model.children(model.root)].reverse();
  while (todo.length && found.length < most) {
    const item = todo.pop() as Item;
    found.push(item);
    if (item.block) {
      const inner = model.children(item);
      for (let i = inner.length - 1; i >= 0; i--) todo.push(inner[i]);
    }
  }
  return found;
}

export interface Leaf {
  item: Item;
  value: number; // all repetitions of what is around it counted
  children: Leaf[];
}

/** How often an item runs, by what is around it. */
function times(item: Item, costs: Costs): number {
  let product = 1;
  for (let one = item.parent; one; one = one.parent) product *= one.count * costs.runs(one.raw);
  return product;
}

/** The tree of the network, opened where most of the value is, until there are `most` leaves. */
export function opened(model: Model, costs: Costs, metric: Metric, most: number): Leaf {
  const leaf = (item: Item): Leaf => ({ item, value: Math.abs(metric.of(item, item.state === "b" ? 1 : 0).value ?? 0) * times(item, costs), children: [] });
  const root = leaf(model.root);
  const queue = [root];
  let leaves = 1;
  while (queue.length && leaves < most) {
    let best = 0;
    for (let i = 1; i < queue.length; i++) if (queue[i].value > queue[best].value) best = i;
    const [one] = queue.splice(best, 1);
    if (!one.item.block || one.value <= 0) continue;
    one.children = model.children(one.item).map(leaf).filter((inner) => inner.value > 0);
    leaves += one.children.length;
    queue.push(...one.children.filter((inner) => inner.item.block));
  }
  return root;
}
