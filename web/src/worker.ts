// Lays out in a thread of its own: a message is a number and a request, the answer that number and what was placed, or why not.
import { place, type Request } from "./layout";

self.onmessage = (event: MessageEvent<{ id: number; request: Request }>) => {
  const { id, request } = event.data;
  try {
    self.postMessage({ id, placed: place(request) });
  } catch (error) {
    self.postMessage({ id, error: String(error) });
  }
};
