// Puts what /status/live sends into the page. An event has the HTML of the elements that have changed, by their ids.
const trouble = document.getElementById("trouble");
const SILENT = 5000, AGAIN = 5000;  // milliseconds
let source, last = Date.now(), again;

const say = (text) => { if (trouble.textContent !== text) trouble.textContent = text; };
const time = (at) => new Date(at).toISOString().slice(11, 19) + " UTC";
const connect = () => {
  clearTimeout(again);
  source?.close();
  source = new EventSource("/status/live");
  source.addEventListener("message", (event) => {
    for (const [id, html] of Object.entries(JSON.parse(event.data))) {
      const element = document.getElementById(id);
      if (element) element.innerHTML = html;
    }
    last = Date.now();
    say("");
  });
  source.addEventListener("error", () => {  // a browser does not ask again after an answer that is no stream
    if (source.readyState === EventSource.CLOSED) again = setTimeout(connect, AGAIN);
  });
};
const listen = () => {
  if (document.hidden) {
    clearTimeout(again);
    source?.close();
  } else {
    last = Date.now();
    connect();
  }
};

setInterval(() => {
  if (!document.hidden && Date.now() - last > SILENT)
    say(`No news since ${time(last)}: nginx or every API process may be down, too many may be watching, or you are offline. What stands below is of then.`);
}, 1000);
document.addEventListener("visibilitychange", listen);
listen();
