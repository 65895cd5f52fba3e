"use strict";
// Asks for one frame after the other; a click adds the point to the request, and the answer brings its similarities.
const $ = (id) => document.getElementById(id);
let about, frame, point = null, pictures = {}, asking = new AbortController(), paused = false;
const boxes = { mask: "show-mask", objects: "show-objects" };

async function send(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const told = await answer.json();
  $("error").textContent = told.error || "";
  if (told.parameters) showValues(told.parameters);
  asking.abort();
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
    for (const name of ["camera", "mask", "features", "similarity"]) if (told[name]) loaded[name] = await picture(told[name]);
    if (point_then !== point) { after = 0; continue; }
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
  if ($("show-objects").checked && !point) for (const object of frame.objects || []) {
    context.strokeStyle = context.fillStyle = `hsl(${(object.id * 137) % 360} 90% 65%)`;
    context.lineWidth = unit;
    context.strokeRect(object.x, object.y, object.width, object.height);
    context.font = `bold ${10 * unit}px system-ui, sans-serif`;
    const label = ` ${object.id} `, width = context.measureText(label).width, top = Math.max(0, object.y - 12 * unit);
    context.fillRect(object.x, top, width, 12 * unit);
    context.fillStyle = "#000";
    context.fillText(label, object.x, top + 9.5 * unit);
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

function look(at) {
  point = at;
  $("clear").hidden = !point;
  $("hint").textContent = point ? "How alike every patch is to the point" : "Click the image: how alike every patch is to that point";
  asking.abort();
  if (!point && frame) draw();
}

function clicked(event) {
  const canvas = $("camera"), box = canvas.getBoundingClientRect();
  // object-fit: contain leaves bars beside the image, or above and below it.
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  const x = ((event.clientX - box.left - box.width / 2) / scale) / canvas.width + 0.5;
  const y = ((event.clientY - box.top - box.height / 2) / scale) / canvas.height + 0.5;
  if (frame && x >= 0 && x <= 1 && y >= 0 && y <= 1) look({ x, y });
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
  $("camera").addEventListener("click", clicked);
  document.addEventListener("keydown", pressed);
  $("clear").addEventListener("click", () => look(null));
  $("parameters").addEventListener("submit", (event) => event.preventDefault());
  for (const id of Object.values(boxes)) $(id).addEventListener("change", () => { asking.abort(); if (frame) draw(); });
  $("pause").addEventListener("click", () => send("pause", { paused: !paused }));
  $("step").addEventListener("click", () => send("step", {}));
  follow();
}

start();
