// Puts what /status/live sends into the page. An event has the HTML of the elements that have changed, by their ids.
const trouble = document.getElementById("trouble"), gap = document.getElementById("gap");
const SILENT = 5000, AGAIN = 5000, PATIENCE = 3000;  // milliseconds
let source, last = Date.now(), again, lost = "", asking = false;

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
    if (lost) gap.textContent = `There was no news from ${time(last)} to ${time(Date.now())}: ${lost}.`;
    last = Date.now();
    lost = "";
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
const reason = async () => {  // why no news comes; "" if nothing is known to be wrong
  if (!navigator.onLine) return "this browser is offline";
  try {
    const options = {method: "HEAD", cache: "no-store", signal: AbortSignal.timeout(PATIENCE)};
    const {ok, status} = await fetch("/status/live", options);
    if (ok) return "";
    if (status === 502 || status === 504) return `nginx answers, but no API process does (${status})`;
    return `the server refuses (${status}), as too many may be watching`;
  } catch (error) {
    const what = error.name === "TimeoutError" ? "takes connections but does not answer" : "cannot be reached";
    return `nginx at ${location.host} ${what}`;
  }
};
const look = async () => {
  if (document.hidden || asking || Date.now() - last <= SILENT) return;
  asking = true;
  lost = await reason() || lost;
  asking = false;
  if (Date.now() - last > SILENT) say(`No news since ${time(last)}${lost && `: ${lost}`}. What stands below is of then.`);
};

setInterval(look, 1000);
document.addEventListener("visibilitychange", listen);
listen();
