// What all pages do: ask again for the part that moves, post what buttons and forms say, draw curves.
"use strict";
(() => {
  const token = document.querySelector("meta[name=csrf-token]").content;
  const said = document.getElementById("said");
  let fading = 0;

  /** Say a sentence, for the eye and for the screen reader. */
  function say(text) {
    said.textContent = text;
    clearTimeout(fading);
    fading = setTimeout(() => { said.textContent = ""; }, 10_000);
  }

  /** Ask the backend as its own page; throws an Error with its sentence where it refuses. */
  async function send(method, address, body) {
    const headers = { Accept: "application/json", "X-CSRF-Token": token };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const reply = await fetch(address, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
    }).catch(() => { throw new Error("The backend cannot be reached."); });
    const answer = await reply.json().catch(() => ({}));
    if (!reply.ok) throw new Error(answer.detail || `The backend answered ${reply.status}.`);
    return answer;
  }

  const changed = () => document.body.dispatchEvent(new Event("changed"));

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-post]");
    if (!button || (button.dataset.sure && !confirm(button.dataset.sure))) return;
    button.disabled = true;
    try {
      const body = button.dataset.body ? JSON.parse(button.dataset.body) : undefined;
      const answer = await send("POST", button.dataset.post, body);
      say(answer.detail || answer.message || "Done.");
    } catch (error) {
      say(error.message);
    }
    button.disabled = false;
    changed();
  });

  /** What a form holds as JSON: numbers are numbers, ticks are true, what is empty is left out. */
  function fields(form) {
    const body = JSON.parse(form.dataset.body || "{}");
    for (const field of form.elements) {
      if (!field.name || field.type === "submit") continue;
      if (field.type === "checkbox") body[field.name] = field.checked;
      else if (field.value.trim() === "") continue;
      else if (field.dataset.kind === "numbers") {
        body[field.name] = field.value.split(/[\s,-]+/).filter(Boolean).map(Number);
      } else body[field.name] = field.type === "number" ? Number(field.value) : field.value.trim();
    }
    return body;
  }

  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-send]");
    if (!form) return;
    event.preventDefault();
    const button = event.submitter;
    const body = fields(form);
    if (button?.name) body[button.name] = JSON.parse(button.value);
    if (button) button.disabled = true;
    try {
      const answer = await send("POST", form.dataset.send, body);
      form.dispatchEvent(new CustomEvent("answered", { bubbles: true, detail: { answer, body } }));
      say(answer.detail || answer.message || "Done.");
    } catch (error) {
      say(error.message);
    }
    if (button) button.disabled = false;
    changed();
  });

  // The part that moves: nothing is asked for a page that nobody looks at, and an answer that the
  // browser has already is not shown again, so that focus and selection stay.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, target } = event.detail;
    const tag = xhr.getResponseHeader("ETag");
    if (xhr.status === 200 && tag && target.dataset.etag === tag) event.detail.shouldSwap = false;
    else if (xhr.status === 200) {
      target.dataset.etag = tag || "";
      document.body.classList.remove("stale");
    }
  });
  for (const name of ["htmx:sendError", "htmx:timeout", "htmx:responseError"]) {
    document.addEventListener(name, () => {
      document.body.classList.add("stale");
      say("The backend does not answer; what is shown is from before.");
    });
  }

  // A picture that could not be made at once is asked for again, a few times, ever later.
  document.addEventListener("error", (event) => {
    const picture = event.target;
    const tries = Number(picture.dataset?.tries ?? 5);
    if (!(picture instanceof HTMLImageElement) || tries <= 0) return;
    picture.dataset.tries = tries - 1;
    const address = picture.src;
    setTimeout(() => { if (picture.src === address) picture.src = address; }, 500 * 2 ** (5 - tries));
  }, true);

  const drawn = new Map(); // element -> uPlot
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

  function draw(element) {
    const { x, lines, unit = "", top, times = false } = JSON.parse(element.dataset.curve);
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const width = element.clientWidth || 300;
    const plot = new uPlot({
      width, height: element.clientHeight || 144,
      legend: { show: false }, cursor: { y: false, points: { size: 6 } },
      scales: { x: { time: times }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), top ?? Math.max(high ?? 0, 1e-9) * 1.1] } },
      axes: [{ ...axis, size: 28, ...(times && { values: (_, ticks) => ticks.map((at) => clock.format(at * 1000)) }) }, { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => `${tick}${unit}`) }],
      series: [{}, ...lines.map((line, index) => ({
        label: line.name, stroke: colour(`--line-${index % 4 + 1}`), width: 2, spanGaps: Boolean(line.spans),
        dash: index > 3 ? [6, 4] : undefined, points: { show: x.length < 3 || Boolean(line.spans) },
      }))],
    }, [x, ...lines.map((line) => line.y)], element);
    drawn.set(element, plot);
  }

  function drawAll() {
    for (const [element, plot] of drawn) {
      plot.destroy();
      drawn.delete(element);
    }
    document.querySelectorAll("[data-curve]").forEach(draw);
  }

  const shown = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

  function refresh() {
    for (const element of document.querySelectorAll("time[datetime]")) {
      const date = new Date(element.dateTime);
      if (!Number.isNaN(date.valueOf())) element.textContent = shown.format(date);
    }
    drawAll();
  }

  document.addEventListener("htmx:afterSettle", refresh);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let sizing = 0;
  addEventListener("resize", () => { clearTimeout(sizing); sizing = setTimeout(drawAll, 200); });
  refresh();
  /** A number with its word, as counted() of the service. */
  const counted = (number, one, more = `${one}s`) => `${number} ${number === 1 ? one : more}`;

  window.sam2 = { counted, say, send, changed, colour };
})();
