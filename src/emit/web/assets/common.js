/* The newest event, as it came. */
export function follow(element) {
  new EventSource("/api/events").onmessage = (message) => { element.textContent = message.data; };
}
