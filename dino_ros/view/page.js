"use strict";
// Asks for one frame after the other; a click adds the point to the request, and the answer brings its similarities.
// What is clicked, or in a box that is dragged, is pointed out to the server, which learns it once it has a name.
const $ = (id) => document.getElementById(id);
let about, frame, point = null, pictures = {}, asking = new AbortController(), paused = false;
let dragged = null, shown = 0, pointed = 0, rows = new Map();
const boxes = { mask: "show-mask", objects: "show-objects", taught: "show-taught" };

async function send(path, body, complaint = "error") {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const told = await answer.json();
  $(complaint).textContent = told.error || "";
  if (told.parameters) showValues(told.parameters);
  asking.abort();
  return told;
}

// What is looked at; nothing else is asked for.
function layers() {
  const ticked = Object.keys(boxes).filter((layer) => $(boxes[layer]).checked);
  return [...ticked, "attention", "features", ...(point ? ["similarity"] : [])];
}

function picture(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = url;
  });
}

async function follow() {
  let after = 0;
  for (;;) {
    // A page in the background is not drawn: neither are frames asked for.
    if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    const point_then = point;
    asking = new AbortController();
    const query = new URLSearchParams({ after, layers: layers() });
    if (point) { query.set("x", point.x); query.set("y", point.y); }
    let told;
    try {
      told = await (await fetch(`frame?${query}`, { signal: asking.signal })).json();
      if (told.error) throw new Error(told.error);
    } catch (error) {
      if (error.name === "AbortError") { after = 0; continue; }
      waitingFor("The server does not answer: start dino-ros view again.");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      after = 0;
      continue;
    }
    showStatus(told);
    if (!told.camera) continue;
    const loaded = {};
    for (const name of ["camera", "mask", "taught", "features", "similarity"]) if (told[name]) loaded[name] = await picture(told[name]);
    if (point_then !== point) { after = 0; continue; }
    showFound(new Map(Object.entries(told.found || {})));
    frame = told;
    pictures = loaded;
    after = told.number;
    draw();
  }
}

function waitingFor(sentence) {
  $("waiting").textContent = sentence;
  $("waiting").hidden = !sentence;
}

function showStatus(told) {
  const { rate, latency, dropped } = told.status;
  $("numbers").textContent = [rate, latency && `latency ${latency}`, dropped].filter(Boolean).join(" · ");
  $("numbers").title = Object.entries(told.status).map(([name, value]) => `${name}: ${value}`).join("\n");
  $("name").textContent = [about.name, told.status.student].filter(Boolean).join(" · ");
  waitingFor(told.camera || frame ? "" : `No camera image yet: ${told.waiting_for}`);
  showValues(told.values);
  showLearner(Object.entries(told.learner));
  showTaught(new Map(Object.entries(told.looks)));
  paused = told.paused;
  $("pause").textContent = paused ? "Play" : "Pause";
}

function draw() {
  const canvas = $("camera"), context = canvas.getContext("2d");
  if (canvas.width !== frame.width || canvas.height !== frame.height) { canvas.width = frame.width; canvas.height = frame.height; }
  context.drawImage(pictures.camera, 0, 0);
  const layer = (image, opacity) => {
    context.globalAlpha = opacity;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  };
  if (pictures.similarity && point) layer(pictures.similarity, 0.75);
  else if (pictures.mask && $("show-mask").checked) layer(pictures.mask, 0.4);
  const unit = Math.max(1, canvas.height / 240);
  const boxed = (x, y, width, height, color, text) => {
    context.strokeStyle = context.fillStyle = color;
    context.lineWidth = unit;
    context.strokeRect(x, y, width, height);
    context.font = `bold ${10 * unit}px system-ui, sans-serif`;
    const label = ` ${text} `, wide = context.measureText(label).width, top = Math.max(0, y - 12 * unit);
    context.fillRect(x, top, wide, 12 * unit);
    context.fillStyle = "#000";
    context.fillText(label, x, top + 9.5 * unit);
  };
  if ($("show-objects").checked && !point) for (const object of frame.objects || []) {
    boxed(object.x, object.y, object.width, object.height, `hsl(${(object.id * 137) % 360} 90% 65%)`, object.id);
  }
  if (pictures.taught && $("show-taught").checked && !point) {
    layer(pictures.taught, 0.6);
    for (const [name, one] of Object.entries(frame.found)) for (const box of one.boxes) boxed(...box, one.color, `${name} ${scored(one)}`.trim());
  }
  if (dragged) {
    context.strokeStyle = "#fff";
    context.lineWidth = unit;
    context.strokeRect(dragged.x * canvas.width, dragged.y * canvas.height, dragged.width * canvas.width, dragged.height * canvas.height);
  }
  if (point) {
    context.strokeStyle = "#fff";
    context.lineWidth = unit;
    context.beginPath();
    context.arc(point.x * canvas.width, point.y * canvas.height, 4 * unit, 0, 7);
    context.stroke();
  }
  canvas.dataset.number = frame.number;
  canvas.dataset.point = point && frame.similarities ? `${point.x},${point.y}` : "";
  if (pictures.features) {
    const features = $("features");
    features.width = pictures.features.width;
    features.height = pictures.features.height;
    features.style.aspectRatio = `${frame.width} / ${frame.height}`;
    features.getContext("2d").drawImage(pictures.features, 0, 0);
  }
  const heads = frame.attention || [];
  while ($("attention").children.length > heads.length) $("attention").lastChild.remove();
  heads.forEach((url, number) => {
    let image = $("attention").children[number];
    if (!image) {
      image = document.createElement("img");
      image.alt = image.title = `Head ${number}`;
      $("attention").append(image);
    }
    image.style.aspectRatio = `${frame.width} / ${frame.height}`;
    image.src = url;
  });
}

// Look at a point, or a box, or neither; what is there may be named.
function look(at, box = null) {
  point = at;
  dragged = box;
  $("clear").hidden = !point && !box;
  $("hint").textContent = point ? "How alike every patch is to the point" : box ? "" : "Click the image: how alike every patch is to that point";
  asking.abort();
  if (!point && frame) draw();
  return pointOut(point || dragged);
}

// Have the server take what is there in the frame that is shown; true once it waits for its name.
async function pointOut(place) {
  const number = ++pointed;
  $("teach").hidden = true;
  $("teach-error").textContent = "";
  $("teach-hint").hidden = false;
  if (!place || !about.teaches) return false;
  const told = await send("point_out", { number: frame.number, ...place }, "teach-error");
  if (number !== pointed || told.error) return false;
  shown = told.shown;
  $("shown").hidden = !told.picture;
  if (told.picture) $("shown").src = told.picture;
  $("teach").hidden = false;
  $("teach-hint").hidden = about.recording;
  return true;
}

async function teach(event) {
  event.preventDefault();
  const name = $("object").value.trim();
  const told = await send("teach", { shown, name, shows_it: !$("not").checked }, "teach-error");
  if (!told.error) { $("not").checked = false; look(null); }
}

function at(event, clamped) {
  const canvas = $("camera"), box = canvas.getBoundingClientRect();
  // object-fit: contain leaves bars beside the image, or above and below it.
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  const x = ((event.clientX - box.left - box.width / 2) / scale) / canvas.width + 0.5;
  const y = ((event.clientY - box.top - box.height / 2) / scale) / canvas.height + 0.5;
  if (clamped) return { x: Math.min(1, Math.max(0, x)), y: Math.min(1, Math.max(0, y)) };
  return x >= 0 && x <= 1 && y >= 0 && y <= 1 ? { x, y } : null;
}

// A press that moves drags a box; one that does not is a click.
function press(down) {
  const canvas = $("camera"), start = frame && down.button === 0 && at(down, false);
  if (!start) return;
  const farther = (event) => Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) > 5;
  let box = null;
  const moved = (event) => {
    if (!box && !farther(event)) return;
    const end = at(event, true);
    box = { x: Math.min(start.x, end.x), y: Math.min(start.y, end.y), width: Math.abs(start.x - end.x), height: Math.abs(start.y - end.y) };
    point = null;
    dragged = box;
    draw();
  };
  const ended = new AbortController();
  canvas.setPointerCapture(down.pointerId);
  canvas.addEventListener("pointermove", moved, { signal: ended.signal });
  canvas.addEventListener("pointercancel", () => { ended.abort(); look(null); }, { signal: ended.signal });
  canvas.addEventListener("pointerup", async (event) => {
    ended.abort();
    $("not").checked = event.altKey;
    if (await (box ? look(null, box) : look(start))) {
      $("object").focus();
      $("object").select();
    }
  }, { signal: ended.signal });
}

// The rows of the taught objects, kept from frame to frame so that their buttons can be pressed.
function showTaught(looks) {
  $("taught-box").hidden = !looks.size;
  for (const [name, row] of rows) if (!looks.has(name)) { row.remove(); rows.delete(name); }
  for (const [name, count] of looks) {
    if (!rows.has(name)) {
      rows.set(name, taughtRow(name));
      $("taught").append(rows.get(name));
    }
    const label = rows.get(name).querySelector("b");
    label.textContent = count === 1 ? name : `${name} ×${count}`;
    label.title = `${name}: ${count} ${count === 1 ? "look" : "looks"}`;
  }
  if ($("names").children.length !== rows.size) $("names").replaceChildren(...[...rows.keys()].map((name) => new Option(name)));
}

function taughtRow(name) {
  const row = document.createElement("li"), make = (kind, text = "") => {
    const element = document.createElement(kind);
    element.textContent = text;
    row.append(element);
    return element;
  };
  make("i");
  make("b");
  make("span");
  const undo = make("button", "Undo"), forget = make("button", "Forget");
  undo.title = `Take back the last look at ${name}`;
  undo.addEventListener("click", () => send("undo", { name }, "teach-error"));
  forget.addEventListener("click", () => {
    if (confirm(`Forget ${name}, and all that was shown of it?`)) send("forget", { name }, "teach-error");
  });
  undo.hidden = forget.hidden = !about.teaches;
  return row;
}

// Rows that did not change stay, so that their text can be selected.
function showLearner(rows) {
  const list = $("learner").querySelector("dl");
  $("learner").hidden = !rows.length;
  while (list.children.length > 2 * rows.length) list.lastChild.remove();
  while (list.children.length < 2 * rows.length) list.append(document.createElement("dt"), document.createElement("dd"));
  rows.flat().forEach((text, number) => {
    if (list.children[number].textContent !== text) list.children[number].textContent = text;
  });
}

function scored(one) {
  return one.score === null ? "" : one.score.toFixed(2);
}

function showFound(found) {
  for (const [name, row] of rows) {
    const one = found.get(name);
    row.querySelector("i").style.background = one ? one.color : "";
    row.querySelector("span").textContent = !one ? "" : one.boxes.length ? scored(one) || "in view" : "not in view";
  }
}

function pressed(event) {
  if (event.key === "Escape") return look(null);
  if (event.target !== $("camera")) return;
  const moves = { Enter: [0, 0], ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  const old = point || { x: 0.5, y: 0.5 }, limit = (value) => Math.min(1, Math.max(0, value));
  look({ x: limit(old.x + move[0] / 40), y: limit(old.y + move[1] / 40) });
}

function makeParameters() {
  for (const row of about.parameters) {
    const label = document.createElement("label"), output = document.createElement("output");
    label.textContent = row.name.replace("mask_", "").replaceAll("_", " ");
    label.title = row.description;
    label.htmlFor = row.name;
    const input = document.createElement(row.choices.length ? "select" : "input");
    input.id = row.name;
    input.title = row.description;
    input.disabled = true;
    for (const choice of row.choices) input.add(new Option(choice));
    if (row.type === "bool") input.type = "checkbox";
    else if (row.bounds) {
      input.type = "range";
      [input.min, input.max] = row.bounds;
      if (row.name === "mask_components") input.max = 20;
      input.step = row.type === "int" ? 1 : 0.01;
    }
    output.htmlFor = row.name;
    output.id = `${row.name}-value`;
    input.addEventListener("input", () => { if (row.bounds) output.textContent = input.value; });
    input.addEventListener("change", () => send("parameters", {
      [row.name]: row.type === "bool" ? input.checked : row.bounds ? Number(input.value) : input.value,
    }));
    $("parameters").append(label, input, output);
  }
}

function showValues(values) {
  for (const { name } of about.parameters) {
    const input = $(name), value = values[name];
    input.disabled = value === undefined;
    if (input.disabled || document.activeElement === input) continue;
    if (input.type === "checkbox") input.checked = value;
    else input.value = value;
    if (input.type === "range") $(`${name}-value`).textContent = value;
  }
}

async function start() {
  about = await (await fetch("about")).json();
  document.title = `${about.name} - dino-ros view`;
  makeParameters();
  $("playback").hidden = !about.recording;
  $("teach-hint").textContent = !about.teaches
    ? "Objects are taught from the machine that serves this page: open it there, or by ssh -L"
    : about.recording
      ? "Click an object, or drag a box around it, and name it to have it found"
      : "Click an object, or drag a box around it, and name it to have it found. The node learns it from its next frame: keep it still";
  $("camera").addEventListener("pointerdown", press);
  $("teach").addEventListener("submit", teach);
  document.addEventListener("keydown", pressed);
  $("clear").addEventListener("click", () => look(null));
  $("parameters").addEventListener("submit", (event) => event.preventDefault());
  for (const id of Object.values(boxes)) $(id).addEventListener("change", () => { asking.abort(); if (frame) draw(); });
  $("pause").addEventListener("click", () => send("pause", { paused: !paused }));
  $("step").addEventListener("click", () => send("step", {}));
  follow();
}

start();
