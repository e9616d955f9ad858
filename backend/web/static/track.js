// The review of one track: its picture at a frame, a curve for each object, the frames to look at.
"use strict";
(() => {
  const root = document.getElementById("track");
  const { job, unit } = root.dataset;
  const at = (id) => document.getElementById(id);
  const address = `/tracks/${encodeURIComponent(job)}`;
  const pictures = `/jobs/${encodeURIComponent(job)}/pictures`;
  const POLL = 2000;
  const SHEET = 24; // thumbnails at first, and with each press of the button
  const MOST_OBJECTS = 24; // whose curves are asked for without being pressed for

  let known = null; // the last answer about the job
  let objects = []; // by position
  let wanted = MOST_OBJECTS;
  let numbers = [[0, unit === "page" ? 1 : 0]]; // pairs: from this frame on, counted from this number
  let frame = null;
  let sheetSize = SHEET;
  let playing = 0;
  const hidden = new Set(); // positions of objects whose masks are not drawn
  const plots = new Map(); // position -> uPlot

  /** The number under which the editor shows a frame. */
  function numberOf(index) {
    let low = 0;
    for (let high = numbers.length; high - low > 1;) {
      const middle = (low + high) >> 1;
      if (numbers[middle][0] <= index) low = middle; else high = middle;
    }
    return numbers[low][1] + index - numbers[low][0];
  }

  const rangeText = ({ first, last }) => first === last
    ? `${unit} ${numberOf(first)}` : `${unit}s ${numberOf(first)}-${numberOf(last)}`;

  /** All that deserves a look, in the order of frames. */
  const looks = () => objects.filter((one) => !hidden.has(one.position))
    .flatMap((one) => one.look.map((look) => ({ ...look, object: one })))
    .sort((a, b) => a.worst - b.worst || a.object.position - b.object.position);

  // The picture.

  function pictureAddress(index, width, chosen) {
    return `${pictures}/${index}?width=${Math.round(width)}&objects=${chosen.join(",")}`;
  }

  const drawnObjects = () => objects.map((one) => one.position).filter((position) => !hidden.has(position));

  function showPicture() {
    const picture = at("picture");
    const width = Math.min((picture.parentElement.clientWidth || 640) * devicePixelRatio, 1920);
    const next = pictureAddress(frame, width, drawnObjects()) + `&v=${encodeURIComponent(known.job.done)}`;
    if (picture.getAttribute("src") !== next) {
      picture.dataset.tries = 5;
      picture.src = next;
    }
    picture.alt = `${unit} ${numberOf(frame)} with the masks of ${sam2.counted(drawnObjects().length, "object")}`;
  }

  function said(index) {
    const parts = [];
    for (const one of objects) {
      const mark = one.marks.find((each) => each.frame === index);
      if (mark) parts.push(`${one.name}: ${mark.correction ? "corrected" : "marked"} by a human (${mark.kind})`);
      const look = one.look.find((each) => each.first <= index && index <= each.last);
      if (look) parts.push(`${one.name}: ${look.reason}`);
    }
    return parts.join("; ");
  }

  function go(index, { follow = false } = {}) {
    if (!known) return;
    frame = Math.max(known.first, Math.min(known.last, index));
    if (!follow) at("follow").checked = false;
    at("scrubber").value = frame;
    at("number").textContent = numberOf(frame);
    at("scrubber").setAttribute("aria-valuetext", `${unit} ${numberOf(frame)}`);
    at("here").textContent = said(frame);
    showPicture();
    for (const plot of plots.values()) plot.redraw(false);
    for (const button of at("sheet").querySelectorAll("button")) {
      if (Number(button.dataset.frame) === frame) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    link();
  }

  /** The task in Label Studio, with the object that is in doubt here selected. */
  function link() {
    at("editor").hidden = !known.label_studio;
    if (!known.label_studio) return;
    const look = looks().find((each) => each.worst === frame);
    at("editor").href = known.label_studio + (look ? `&region=${encodeURIComponent(look.region)}` : "");
  }

  function doubt(direction) {
    const places = looks();
    const found = direction > 0
      ? places.find((look) => look.worst > frame) : places.filter((look) => look.worst < frame).pop();
    if (found) go(found.worst);
    else sam2.say(direction > 0 ? "There is nothing more to look at." : "There is nothing to look at before this.");
  }

  function play(on) {
    clearTimeout(playing);
    playing = 0;
    at("play").setAttribute("aria-pressed", String(on));
    at("play").textContent = on ? "Pause" : "Play";
    if (!on) return;
    const shown = () => {
      if (frame >= known.last) return play(false);
      go(frame + 1);
      playing = setTimeout(waitForPicture, 1000 / Number(at("speed").value));
    };
    // The next frame waits for this one: what is not shown is not asked for.
    const waitForPicture = () => {
      if (at("picture").complete) shown(); else playing = setTimeout(waitForPicture, 50);
    };
    waitForPicture();
  }

  // The curves.

  function band(plot, one) {
    const { ctx, bbox } = plot;
    const x = (index) => Math.min(bbox.left + bbox.width, Math.max(bbox.left, plot.valToPos(index, "x", true)));
    ctx.save();
    ctx.globalAlpha = 0.25;
    ctx.fillStyle = sam2.colour("--bad");
    for (const { first, last } of one.look) {
      const left = x(first - 0.5);
      ctx.fillRect(left, bbox.top, Math.max(2, x(last + 0.5) - left), bbox.height);
    }
    ctx.restore();
  }

  function marks(plot, one) {
    const { ctx, bbox } = plot;
    const size = 5 * devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = sam2.colour("--text");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([]);
    for (const mark of one.marks) {
      const x = plot.valToPos(mark.frame, "x", true);
      const bottom = bbox.top + bbox.height;
      ctx.beginPath();
      ctx.moveTo(x - size, bottom);
      ctx.lineTo(x + size, bottom);
      ctx.lineTo(x, bottom - 2 * size);
      ctx.closePath();
      if (mark.correction) ctx.fill();
      ctx.stroke();
    }
    if (frame !== null) {
      const x = plot.valToPos(frame, "x", true);
      ctx.strokeStyle = sam2.colour("--accent");
      ctx.lineWidth = 2 * devicePixelRatio;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  function drawCurve(one) {
    const element = document.querySelector(`[data-curve-of="${one.position}"]`);
    plots.get(one.position)?.destroy();
    const axis = { stroke: sam2.colour("--muted"), grid: { stroke: sam2.colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const x = one.iou.map((_, point) => known.first + point * known.step);
    const plot = new uPlot({
      width: element.clientWidth || 300, height: element.clientHeight || 104,
      legend: { show: false }, cursor: { y: false, drag: { x: false, y: false } },
      scales: { x: { time: false, range: () => [known.first - 0.5, Math.max(known.last, known.first + 1) + 0.5] }, y: { range: () => [0, 1.05] } },
      axes: [{ ...axis, size: 26, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? numberOf(tick) : "")) }, { ...axis, size: 32, splits: () => [0, 0.5, 1] }],
      series: [{},
        { label: "predicted IoU", stroke: one.colour, width: 2, points: { show: x.length < 3 } },
        { label: "presence", stroke: sam2.colour("--muted"), width: 1, dash: [4, 3], points: { show: false } }],
      hooks: { drawClear: [(u) => band(u, one)], draw: [(u) => marks(u, objects[one.position] || one)] },
    }, [x, one.iou, one.presence], element);
    plot.over.addEventListener("click", () => go(Math.round(plot.posToVal(plot.cursor.left, "x"))));
    plots.set(one.position, plot);
  }

  function summary(one) {
    const values = one.iou.filter((value) => value !== null);
    const lowest = values.length ? Math.min(...values).toFixed(2) : "-";
    const frames = one.look.reduce((sum, look) => sum + look.last - look.first + 1, 0);
    return `${sam2.counted(one.done, unit)} done, lowest predicted IoU ${lowest}; `
      + (frames ? `${frames} to look at, in ${sam2.counted(one.look.length, "place")}` : "nothing to look at");
  }

  function showObject(one) {
    let item = document.querySelector(`[data-object="${one.position}"]`);
    if (!item) {
      item = document.createElement("li");
      item.dataset.object = one.position;
      const label = document.createElement("label");
      const tick = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
      const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
      swatch.style.backgroundColor = one.colour;
      const name = Object.assign(document.createElement("span"), { className: "name" });
      label.append(tick, swatch, name);
      tick.addEventListener("change", () => {
        if (tick.checked) hidden.delete(one.position); else hidden.add(one.position);
        showPicture();
        showSheet();
      });
      const curve = document.createElement("div");
      curve.className = "object-curve";
      curve.dataset.curveOf = one.position;
      curve.setAttribute("role", "img");
      const words = Object.assign(document.createElement("p"), { className: "quiet" });
      item.append(label, curve, words);
      at("objects").append(item);
    }
    item.querySelector(".name").textContent = one.name;
    item.querySelector("p").textContent = summary(one);
    item.querySelector("[role=img]").setAttribute("aria-label", `Curves of ${one.name}: ${summary(one)}`);
    drawCurve(one);
  }

  // The contact sheet.

  function showSheet() {
    const places = looks();
    const text = places.length
      ? `${sam2.counted(places.length, "place deserves", "places deserve")} a look, the worst ${unit} of each.`
      : known.job.state === "done" ? `No ${unit} deserves a look.` : "Nothing to look at so far.";
    at("sheet-text").textContent = text;
    const kept = new Map([...at("sheet").children].map((item) => [item.dataset.key, item]));
    const items = places.slice(0, sheetSize).map((look) => {
      const key = JSON.stringify([look.object.position, look.first, look.last, look.worst, look.reason, numberOf(look.first)]);
      return kept.get(key) || sheetItem(look, key);
    });
    if (items.length !== at("sheet").children.length || items.some((item, place) => at("sheet").children[place] !== item)) {
      at("sheet").replaceChildren(...items);
    }
    at("more-sheet").hidden = places.length <= sheetSize;
  }

  function sheetItem(look, key) {
    const item = document.createElement("li");
    item.dataset.key = key;
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.dataset.frame = look.worst;
    const picture = Object.assign(document.createElement("img"), { className: "thumb", loading: "lazy", alt: "" });
    picture.src = pictureAddress(look.worst, 320, [look.object.position]);
    button.append(picture, `${rangeText(look)}, ${look.object.name}: ${look.reason}`);
    button.addEventListener("click", () => {
      go(look.worst);
      at("picture-title").scrollIntoView({ block: "nearest" });
    });
    item.append(button);
    return item;
  }

  // What moves.

  function showJob() {
    const { state, done, total, message, seconds_left: left } = known.job;
    at("state").textContent = state;
    at("state").className = `badge ${state}`;
    at("progress").max = total || 1;
    at("progress").value = done;
    const wait = left === null ? "" : `, about ${Math.ceil(left)} s left`;
    at("progress-text").textContent = `${done} of ${sam2.counted(total, "mask")}${wait}`;
    at("message").hidden = !message;
    at("message").textContent = message;
    at("following").hidden = ended();
  }

  const ended = () => !["queued", "running"].includes(known.job.state);

  function newest() {
    let found = known.first;
    for (const one of objects) {
      const point = one.iou.findLastIndex((value) => value !== null);
      if (point >= 0) found = Math.max(found, known.first + point * known.step);
    }
    return found;
  }

  /** Ask for everything shown; the browser answers by itself what has not changed. */
  async function load() {
    let from = 0;
    while (from !== null && from < wanted) {
      const reply = await sam2.send("GET", `${address}/curves?from=${from}`);
      const changed = JSON.stringify(reply) !== JSON.stringify(known?.parts?.[from]);
      const parts = { ...(known?.parts || {}), [from]: reply };
      known = { ...reply, parts };
      if (frame === null) frame = firstPlace(reply);
      at("scrubber").min = known.first;
      at("scrubber").max = known.last;
      if (changed) {
        for (const one of reply.objects) {
          objects[one.position] = one;
          showObject(one);
        }
        showJob();
        // The picture has its place before it comes, or what is below it would move away.
        if (known.size) [at("picture").width, at("picture").height] = known.size;
        if (at("follow").checked && !ended()) go(newest(), { follow: true });
        else go(frame, { follow: at("follow").checked });
        showSheet();
      }
      from = reply.next;
    }
    at("more").hidden = from === null;
  }

  const firstPlace = (reply) => {
    const asked = Number(new URLSearchParams(location.search).get("frame") ?? NaN);
    return Number.isInteger(asked) ? asked : reply.first;
  };

  async function keepLoading() {
    let wait = POLL;
    try {
      if (!document.hidden) await load();
      if (known && ended()) return;
    } catch (error) {
      sam2.say(error.message);
      wait = 5 * POLL;
    }
    setTimeout(keepLoading, wait);
  }

  async function count() {
    const reply = await sam2.send("GET", `${address}/numbers`).catch(() => null);
    if (!reply?.numbers.length || JSON.stringify(reply.numbers) === JSON.stringify(numbers)) return;
    numbers = reply.numbers;
    if (!known) return;
    objects.forEach(showObject);
    showSheet();
    go(frame, { follow: at("follow").checked });
  }

  at("doubt-before").addEventListener("click", () => doubt(-1));
  at("doubt-after").addEventListener("click", () => doubt(1));
  at("step-back").addEventListener("click", () => go(frame - 1));
  at("step-on").addEventListener("click", () => go(frame + 1));
  at("play").addEventListener("click", () => play(!playing));
  at("scrubber").addEventListener("input", () => go(Number(at("scrubber").value)));
  at("follow").addEventListener("change", () => { if (at("follow").checked) go(newest(), { follow: true }); });
  at("more-sheet").addEventListener("click", () => { sheetSize += SHEET; showSheet(); });
  at("more").addEventListener("click", () => { wanted += MOST_OBJECTS; load().catch((error) => sam2.say(error.message)); });

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !known) return;
    if (event.target.closest("select") || (event.target === at("scrubber") && event.key.startsWith("Arrow"))) return;
    const keys = { ArrowLeft: () => doubt(-1), ArrowRight: () => doubt(1), ",": () => go(frame - 1), ".": () => go(frame + 1) };
    if (event.key === " " && !event.target.closest("button, input, a")) keys[" "] = () => play(!playing);
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  const redraw = () => { if (known) { objects.forEach(drawCurve); showPicture(); } };
  let sizing = 0;
  addEventListener("resize", () => { clearTimeout(sizing); sizing = setTimeout(redraw, 200); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  keepLoading();
  count();
})();
