// Asks the worker for layouts; where no worker may be made (some notebooks' frames), they are made here, one per turn of the event loop.
import { place, type Placed, type Request } from "./layout";
import source from "worker-source";

type Waiting = { done: (placed: Placed) => void; failed: (error: Error) => void; request: Request };

let worker: Worker | null = null;
let refused = false;
let next = 0;
const waiting = new Map<number, Waiting>();

function here(request: Request): Promise<Placed> {
  return new Promise((done, failed) => {
    setTimeout(() => {
      try {
        done(place(request));
      } catch (error) {
        failed(error as Error);
      }
    });
  });
}

function noWorker(): void {
  refused = true;
  worker?.terminate();
  worker = null;
  for (const item of waiting.values()) here(item.request).then(item.done, item.failed);
  waiting.clear();
}

function started(): Worker | null {
  if (worker || refused) return worker;
  try {
    worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  } catch {
    refused = true; // a frame without workers: the same layout, in this thread
    return null;
  }
  worker.onerror = noWorker;
  worker.onmessage = (event: MessageEvent<{ id: number; placed?: Placed; error?: string }>) => {
    const item = waiting.get(event.data.id);
    if (!item) return;
    waiting.delete(event.data.id);
    if (event.data.placed) item.done(event.data.placed);
    else item.failed(new Error(event.data.error));
  };
  return worker;
}

/** Called at once when the page opens, so that the worker's code is read while the page is. */
export function warm(): void {
  started();
}

export function placed(request: Request): Promise<Placed> {
  const thread = started();
  if (!thread) return here(request);
  return new Promise((done, failed) => {
    const id = next++;
    waiting.set(id, { done, failed, request });
    thread.postMessage({ id, request });
  });
}
