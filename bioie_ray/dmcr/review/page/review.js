"use strict";
// The page keeps no truth of its own: what is decided is asked of the server after every step. All text is set as text, never as HTML.

const $ = (selector, root = document) => root.querySelector(selector);
const state = { queue: [], identity: "", number: -1, item: null, reviewer: "", saving: false, loading: 0 };
const LIST_WINDOW = 150; // rows of the queue that are drawn around the present one
const POLL_MS = 10000;

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Bioie-Review": "1" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: is bioie review still running? Nothing was saved.");
  }
  const isJson = (response.headers.get("content-type") || "").includes("json");
  const answer = isJson ? await response.json() : { detail: await response.text() };
  if (!response.ok && response.status !== 409) throw new Error(answer.detail || `The server says ${response.status}.`);
  return { conflict: response.status === 409, ...answer };
}

// --- items ---------------------------------------------------------------------------------------------------------

const fold = (name) => name.toLowerCase();
const keyOf = (item) => JSON.stringify([].concat(item).map(fold));
const sidesOf = (list) => (list || []).flatMap((item) => [].concat(item));

function showItem(item) {
  return Array.isArray(item) ? [item[0], make("wbr"), make("span", "arrow", "→"), make("wbr"), item[1]] : [item === "" ? "(empty)" : item];
}

function marksOf(item) {
  const a = new Set(sidesOf(item.list_a).map(fold)), b = new Set(sidesOf(item.list_b).map(fold));
  const kinds = new Map();
  for (const name of new Set([...a, ...b])) if (name.trim()) kinds.set(name, a.has(name) && b.has(name) ? "both" : a.has(name) ? "a" : "b");
  return kinds;
}

const WORD = /[\p{L}\p{N}_]/u;

// Whole words only, case aside: as a reader would find them.
function occurrences(text, name) {
  const characters = [...name];
  const escaped = name.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&").replace(/\s+/g, "\\s+");
  const before = WORD.test(characters[0]) ? "(?<![\\p{L}\\p{N}_])" : "", after = WORD.test(characters.at(-1)) ? "(?![\\p{L}\\p{N}_])" : "";
  return [...text.matchAll(new RegExp(before + escaped + after, "giu"))].map((match) => ({ name, start: match.index, end: match.index + match[0].length }));
}

// Names overlap where the evaluators disagree ("diabetes", "steroid-induced diabetes"): every stretch gets the marks of all it belongs to.
function markUp(target, text, kinds) {
  const found = [...kinds.keys()].flatMap((name) => occurrences(text, name));
  const cuts = [...new Set([0, text.length, ...found.flatMap(({ start, end }) => [start, end])])].sort((x, y) => x - y);
  cuts.slice(0, -1).forEach((start, index) => {
    const piece = text.slice(start, cuts[index + 1]);
    const here = found.filter((one) => one.start <= start && one.end > start);
    if (!here.length) { target.append(piece); return; }
    const sides = new Set(here.map(({ name }) => kinds.get(name)));
    const mark = make("mark", [...sides].join(" "), piece);
    mark.dataset.names = JSON.stringify(here.map(({ name }) => name));
    mark.title = here.map(({ name }) => `${{ a: "only in A", b: "only in B", both: "in both" }[kinds.get(name)]}: ${name}`).join("\n");
    target.append(mark);
  });
}

function drawProposal(side, item) {
  const box = $(`.proposal.${side}`);
  const own = item[`list_${side}`], other = new Set((item[side === "a" ? "list_b" : "list_a"] || []).map(keyOf));
  const invented = new Set((item[`invented_${side}`] || []).map(keyOf));
  const list = $("ul", box);
  list.replaceChildren();
  if (own === null) list.append(make("li", "absent", "no list: see its reply"));
  else if (!own.length) list.append(make("li", "absent", "[] nothing"));
  for (const entry of own || []) {
    const only = !other.has(keyOf(entry));
    const sign = make("span", "sign", only ? (side === "a" ? "A" : "B") : "=");
    sign.title = only ? `only in ${side.toUpperCase()}` : "in both";
    const line = make("li", only ? "only" : "common", sign, make("span", "item", ...showItem(entry)));
    if (invented.has(keyOf(entry))) {
      const flag = make("span", "invented", "made up");
      flag.title = "neither in the answer nor in the text";
      line.append(flag);
    }
    line.addEventListener("mouseenter", () => nearby([].concat(entry).map(fold), true));
    line.addEventListener("mouseleave", () => nearby([].concat(entry).map(fold), false));
    list.append(line);
  }
  $(".count", box).textContent = own === null ? "" : `· ${own.length}`;
  $("pre", box).textContent = item[`conversion_${side}`] ?? "(none)";
  $("details", box).open = own === null;
  $(`#take-${side}`).disabled = own === null;
}

function nearby(names, on) {
  for (const mark of document.querySelectorAll("mark")) if (JSON.parse(mark.dataset.names || "[]").some((name) => names.includes(name))) mark.classList.toggle("near", on);
}

function draw() {
  const item = state.item;
  $("#document-title").textContent = item.document_id;
  $("#document-meta").textContent = `${item.task} · repeat ${item.repeat} · ${state.number + 1} of ${state.queue.length}`;
  const kinds = marksOf(item);
  const text = $("#text");
  text.replaceChildren();
  const [first, ...rest] = item.text.split("\n");
  if (rest.length && first.length < 300) { // a title in a line of its own
    const title = make("span", "first");
    markUp(title, first, kinds);
    text.append(title);
    markUp(text, rest.join("\n"), kinds);
  } else markUp(text, item.text, kinds);
  const answer = $("#answer");
  answer.replaceChildren();
  markUp(answer, item.answer, kinds);
  drawProposal("a", item);
  drawProposal("b", item);
  drawState();
  $("#reading").scrollTop = 0;
  closeEditor();
}

function describe(decision) {
  return { a: "took A", b: "took B", edit: decision.answers && decision.answers.length ? "wrote a list" : "said: nothing", undo: "took a decision back" }[decision.choice];
}

const timeOf = (decision) => new Date(decision.time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

function drawState() {
  const { winner, num_conflicts } = state.item.standing;
  const box = $("#state");
  box.className = winner ? "state done" : "state";
  const who = winner && (winner.reviewer === state.reviewer ? "You" : winner.reviewer);
  let words = winner ? `✓ ${who} ${describe(winner)}, ${timeOf(winner)}.` : "Open: what does the raw answer say?";
  if (winner && winner.choice === "edit" && winner.answers.length) words += ` ${winner.answers.map((entry) => [].concat(entry).join(" → ")).join(" · ")}`;
  if (num_conflicts) words += ` (${num_conflicts} refused)`;
  box.textContent = words;
  for (const side of ["a", "b"]) $(`.proposal.${side}`).classList.toggle("chosen", Boolean(winner) && winner.choice === side);
  $("#undo").disabled = !lastOwn();
}

function drawQueue() {
  const decided = state.queue.filter((entry) => entry.choice).length;
  $("#progress").max = Math.max(1, state.queue.length);
  $("#progress").value = decided;
  $("#progress-text").textContent = `${decided} of ${state.queue.length} decided`;
  const from = Math.max(0, state.number - LIST_WINDOW), to = Math.min(state.queue.length, state.number + LIST_WINDOW);
  const rows = state.queue.slice(from, to).map((entry, offset) => {
    const skipped = entry.skipped_by.includes(state.reviewer);
    const mark = make("span", `mark ${entry.choice || ""}`, entry.choice === "edit" ? "✎" : entry.choice ? entry.choice.toUpperCase() : skipped ? "–" : "");
    const button = make("button", "", mark, make("span", "name", entry.document_id), make("span", "repeat", `r${entry.repeat}`));
    button.type = "button";
    button.title = entry.choice ? `${entry.choice.toUpperCase()} by ${entry.reviewer}` : skipped ? "skipped" : "open";
    if (from + offset === state.number) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => go(from + offset));
    return make("li", "", button);
  });
  if (from > 0) rows.unshift(make("li", "more", `${from} before`));
  if (to < state.queue.length) rows.push(make("li", "more", `${state.queue.length - to} more`));
  $("#list").replaceChildren(...rows);
  $("#list [aria-current]")?.scrollIntoView({ block: "nearest" });
}

// --- moving --------------------------------------------------------------------------------------------------------

// Whether it is another queue than before: one of another output, or of the same one made again.
function take({ name, queue, items }) {
  const changed = state.identity !== "" && state.identity !== queue;
  $("#queue-name").textContent = name;
  document.title = `Review · ${name}`;
  state.identity = queue;
  state.queue = items;
  drawQueue();
  return changed;
}

const refresh = async () => take(await ask("/api/queue"));

const askItem = (number) => ask(`/api/items/${number}?of=${state.identity}`);

const placeOf = (about) => state.queue.findIndex((entry) => entry.document_id === about.document_id && entry.repeat === about.repeat);

// What was shown is not to be decided here any more: show what is, under a dialog, so that no key meant for the one decides the other.
async function showAnew(why, typed = []) {
  state.loading += 1;
  // First of all, and whatever becomes of the rest: what was typed is nowhere else.
  $("#changed-title").textContent = why;
  $("#changed-name").textContent = "the server";
  $("#changed-typed").hidden = !typed.length;
  $("#changed-typed ul").replaceChildren(...typed.map((entry) => make("li", "", [].concat(entry).join(" → "))));
  if (!$("#changed-dialog").open) $("#changed-dialog").showModal();
  try {
    closeEditor();
    await refresh();
    const before = state.item;
    state.item = null;
    const same = before ? placeOf(before) : -1;
    state.number = -1;
    $("main").hidden = !state.queue.length;
    await go(same >= 0 ? same : nextOpen() ?? 0);
  } finally {
    state.loading -= 1;
  }
  $("#changed-name").textContent = $("#queue-name").textContent;
}

// While an answer is on its way no key decides: it would be about the one that is still shown.
async function go(number) {
  if (number < 0 || number >= state.queue.length) return;
  state.loading += 1;
  try {
    const item = await askItem(number);
    if (item.changed) { await showAnew("Other answers are served here now."); return; }
    state.number = number;
    state.item = item;
    hideNotice();
    draw();
    drawQueue();
  } catch (error) {
    notify(error.message);
  } finally {
    state.loading -= 1;
  }
}

// The next that is open; what was skipped comes when nothing else is left.
function nextOpen() {
  const order = state.queue.map((_, offset) => (state.number + 1 + offset) % state.queue.length);
  const open = order.filter((number) => !state.queue[number].choice);
  return open.find((number) => !state.queue[number].skipped_by.includes(state.reviewer)) ?? open[0];
}

async function goOn() {
  const number = nextOpen();
  if (number === undefined) {
    await go(state.number);
    notify("Everything is decided.", [], "Run the recipe again to bring the scores up to date.", true);
  } else await go(number);
}

function lastOwn() {
  const own = state.queue.filter((entry) => entry.decision && entry.reviewer === state.reviewer);
  return own.reduce((last, entry) => (!last || entry.decision > last.decision ? entry : last), undefined);
}

// --- deciding ------------------------------------------------------------------------------------------------------

async function decide(choice, answers = null, target = null) {
  if (!state.item || state.saving || state.loading) return;
  if (!state.reviewer) { askName(); return; }
  const { document_id, repeat, answer_digest, queue, head } = target || { ...state.item, head: state.item.standing.head };
  state.saving = true;
  try {
    const reply = await ask("/api/decisions", { document_id, repeat, answer_digest, queue, choice, answers, reviewer: state.reviewer, seen: head });
    if (reply.changed) await showAnew("Not saved: this answer has changed since it was shown.", answers || []);
    else if (await refresh()) {
      const why = `${reply.conflict ? "Not saved: somebody decided first." : "Saved."} Other answers are served here now.`;
      await showAnew(why, reply.conflict ? answers || [] : []);
    }
    else if (reply.conflict) {
      if (!target) {
        state.item.standing = reply.standing;
        drawState();
      }
      showConflict(reply.standing);
    } else if (choice === "undo") {
      await go(placeOf({ document_id, repeat }));
      notify("Taken back.", [], "The decision stays in the log, without effect.", true);
    } else await goOn();
  } catch (error) {
    notify(error.message);
  } finally {
    state.saving = false;
  }
}

function showConflict(standing) {
  const other = standing.last;
  if (!other) { notify("Not saved: the log has changed. Look again and decide."); return; }
  notify(`Not saved: ${other.reviewer} ${describe(other)} while you were looking.`, (other.answers || []).map((entry) => [].concat(entry).join(" → ")),
    "Leave it with next (j), or decide again to put yours in its place.");
}

async function undo() {
  const last = lastOwn();
  if (last) await decide("undo", null, { ...last, queue: state.identity });
}

function notify(headline, items = [], more = "", good = false) {
  const box = $("#notice");
  const list = make("ul", "", ...items.map((entry) => make("li", "", entry)));
  const close = make("button", "quiet", "×");
  close.type = "button";
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", hideNotice);
  box.className = good ? "good" : "";
  box.replaceChildren(make("div", "", make("strong", "", headline), ...(items.length ? [list] : []), more), close);
  box.hidden = false;
}

function hideNotice() { $("#notice").hidden = true; }

// --- the editor ----------------------------------------------------------------------------------------------------

const PREFILLED = new WeakMap(); // a field shows no line break: what was not touched is sent as it was

const valueOf = (input) => (PREFILLED.get(input).shown === input.value ? PREFILLED.get(input).value : input.value.trim());

function openEditor() {
  const { item } = state;
  const standing = item.standing.winner;
  const from = new Map();
  const add = (entry, label) => {
    const known = from.get(keyOf(entry));
    from.set(keyOf(entry), known ? { ...known, label: "A B" } : { entry, label });
  };
  if (standing && standing.choice === "edit") standing.answers.forEach((entry) => add(entry, ""));
  else {
    new Map((item.list_a || []).map((entry) => [keyOf(entry), entry])).forEach((entry) => add(entry, "A"));
    new Map((item.list_b || []).map((entry) => [keyOf(entry), entry])).forEach((entry) => add(entry, "B"));
  }
  $("#rows").replaceChildren(...[...from.values()].map(({ entry, label }) => row(entry, label)));
  if (!from.size) $("#rows").append(row());
  $("#editor").hidden = false;
  $("#actions").hidden = true;
  $("#rows input").focus();
  $("#editor").scrollIntoView({ block: "nearest" });
}

function closeEditor() {
  if ($("#editor").hidden) return;
  $("#editor").hidden = true;
  $("#actions").hidden = false;
  $("#decide").focus();
}

function row(entry = state.item.kind === "re" ? ["", ""] : "", label = "") {
  const origin = make("span", `from ${label === "A" ? "a" : label === "B" ? "b" : ""}`, label || "·");
  const line = make("li", "", origin);
  [].concat(entry).forEach((value, side) => {
    const input = make("input");
    input.value = value;
    PREFILLED.set(input, { shown: input.value, value });
    input.spellcheck = false;
    input.setAttribute("aria-label", state.item.kind === "re" ? (side ? "Second of the pair" : "First of the pair") : "Item");
    if (side) line.append(make("span", "arrow", "→"));
    line.append(input);
  });
  const remove = make("button", "remove", "×");
  remove.type = "button";
  remove.setAttribute("aria-label", "Remove this row");
  remove.addEventListener("click", () => removeRow(line));
  line.append(remove);
  return line;
}

function removeRow(line) {
  const near = line.nextElementSibling || line.previousElementSibling;
  line.remove();
  (near ? $("input", near) : $("#add-row")).focus();
}

function addRow(after = null) {
  const line = row();
  if (after) after.after(line);
  else $("#rows").append(line);
  $("input", line).focus();
}

function saveEditor() {
  const rows = [...$("#rows").children].map((line) => [...line.querySelectorAll("input")].map(valueOf));
  const filled = rows.filter((values) => values.some(Boolean));
  if (filled.some((values) => !values.every(Boolean))) { notify("A pair needs both of its names."); return; }
  decide("edit", state.item.kind === "re" ? filled : filled.map(([value]) => value));
}

function editorKey(event) {
  const line = event.target.closest("#rows li");
  if (event.key === "Escape") closeEditor();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) saveEditor();
  else if (event.key === "Enter" && line && event.target.matches("input")) {
    const inputs = [...$("#rows").querySelectorAll("input")], next = inputs[inputs.indexOf(event.target) + 1];
    if (next) next.focus(); else addRow(line);
  } else if (event.key === "Backspace" && (event.ctrlKey || event.metaKey) && line) removeRow(line);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

// --- the rest ------------------------------------------------------------------------------------------------------

function askName() {
  $("#name").value = state.reviewer;
  $("#name-dialog").showModal();
  $("#name").select();
}

function setName() {
  state.reviewer = $("#name").value.trim();
  remember("bioie-reviewer", state.reviewer);
  $("#who").textContent = state.reviewer || "Who?";
  drawQueue();
  if (state.item) drawState();
}

function remember(name, value) {
  try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ }
}

function recall(name) {
  try { return localStorage.getItem(name) || ""; } catch { return ""; }
}

async function importFile(event) {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    const { added, known, refused, not_taken } = await ask("/api/import", { name: file.name, text: await file.text() });
    if (await refresh()) await showAnew("Other answers are served here now.");
    else await go(state.number);
    const more = not_taken.length ? "The lines above were not taken: each says why." : "";
    const counts = `${added} added, ${known} known already, ${refused} refused because somebody decided first.`;
    notify(`${file.name}: ${counts}`, not_taken.slice(0, 10), more, !refused && !not_taken.length);
  } catch (error) {
    notify(error.message);
  }
}

function switchTheme() {
  const dark = document.documentElement.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.style.colorScheme = dark === "dark" ? "light" : "dark";
  remember("bioie-theme", document.documentElement.style.colorScheme);
}

const ACTIONS = {
  a: () => !$("#take-a").disabled && decide("a"),
  b: () => !$("#take-b").disabled && decide("b"),
  e: openEditor,
  0: () => decide("edit", []),
  s: () => decide("skip"),
  u: undo,
  j: () => go(state.number + 1),
  k: () => go(state.number - 1),
  ArrowRight: () => go(state.number + 1),
  ArrowLeft: () => go(state.number - 1),
  "?": () => $("#help-dialog").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, textarea, summary") || !$("#editor").hidden || !state.item) return;
  const action = ACTIONS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  if (!state.saving && !state.loading) action();
}

// Others decide too: their decisions are shown as they come, and one on the answer at hand before it is decided again.
async function poll() {
  if (document.hidden || state.saving || document.querySelector("dialog[open]")) return;
  try {
    const served = await ask("/api/queue");
    if (state.saving || state.loading) return;
    if (state.identity && served.queue !== state.identity) {
      const why = "Other answers are served here now.";
      if ($("#editor").hidden) await showAnew(why); // else what is typed would decide
      else notify(why, [], "What you write cannot be saved any more. Copy what you need, then cancel: the page shows the new answers.");
      return;
    }
    take(served);
    const entry = state.queue[state.number];
    if (!entry || !state.item || entry.head === state.item.standing.head || state.saving || state.loading || !$("#editor").hidden) return;
    const number = state.number, about = state.item, item = await askItem(number);
    // Meanwhile somebody may have gone on, decided, or begun to edit: what is decided next must be about what is shown.
    if (!item.changed && state.number === number && state.item === about && !state.saving && !state.loading && $("#editor").hidden) {
      state.item = item;
      drawState();
    }
  } catch { /* said when something is to be saved */ }
}

async function begin() {
  document.documentElement.style.colorScheme = recall("bioie-theme");
  state.reviewer = recall("bioie-reviewer");
  $("#who").textContent = state.reviewer || "Who?";
  const on = (selector, action) => $(selector).addEventListener("click", action);
  on("#take-a", ACTIONS.a);
  on("#take-b", ACTIONS.b);
  on("#edit", ACTIONS.e);
  on("#nothing", ACTIONS[0]);
  on("#skip", ACTIONS.s);
  on("#undo", undo);
  on("#next", ACTIONS.j);
  on("#previous", ACTIONS.k);
  on("#who", askName);
  on("#help", ACTIONS["?"]);
  on("#theme", switchTheme);
  on("#import", () => $("#import-file").click());
  on("#add-row", () => addRow());
  on("#cancel", closeEditor);
  $("#import-file").addEventListener("change", importFile);
  $("#editor").addEventListener("submit", (event) => { event.preventDefault(); saveEditor(); });
  $("#editor").addEventListener("keydown", editorKey);
  $("#name-dialog").addEventListener("close", setName);
  document.addEventListener("keydown", onKey);
  try {
    await refresh();
    if (!state.queue.length) notify("There is nothing to decide.", [], "The two evaluators agree on every answer.", true);
    else await goOn();
  } catch (error) {
    notify(error.message);
  }
  $("main").hidden = !state.queue.length;
  if (!state.reviewer) askName();
  setInterval(poll, POLL_MS);
}

begin();
