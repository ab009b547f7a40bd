// What one model answers: its list, candidates, history and reasons.

import { make, showCell, showNumber, showTime } from "./elements.js";
import { makeMap } from "./map.js";
import { askSimilar, askWhy } from "./service.js";

const MOST_SHARES = 8; // features of which a bar is drawn

const SOURCES = {
  history: "from the history of this user",
  events: "from the clicks and the history of this user",
  popular: "what is popular: nothing is known of this user",
  none: "no item is left for this user",
};

function makeButton(text, label, press) {
  const attributes = { type: "button", "aria-label": label, click: press };
  return make("button", attributes, text);
}

function makeBar(share, largest) {
  const bar = make("span", { class: share < 0 ? "bar below" : "bar above" });
  bar.style.width = `${(50 * Math.abs(share)) / largest}%`;
  return make("span", { class: "track", "aria-hidden": "true" }, bar);
}

function makeShare(row, largest) {
  const value = row.value === null ? "" : ` (${showCell(row.value)})`;
  const name = make("span", { class: "feature" }, row.feature, value);
  const number = make("span", { class: "number" }, showNumber(row.share));
  return make("li", {}, name, makeBar(row.share, largest), number);
}

// Bars of the features that put an item above the average candidate, or below it.
export function makeReasons(reasons, titles) {
  const rows = reasons.features.slice(0, MOST_SHARES);
  const largest = Math.max(...rows.map((row) => Math.abs(row.share)), 1e-12);
  const bars = rows.map((row) => makeShare(row, largest));
  const near = reasons.history.slice(0, 3);
  const names = near.map((row) => titles.get(row.item_id) ?? String(row.item_id));
  const above = showNumber(reasons.score - reasons.typical_score);
  const text = `${above} against the average candidate`;
  const panel = make("div", { class: "reasons" }, make("p", {}, text));
  panel.append(make("ul", { class: "shares" }, ...bars));
  if (names.length > 0) {
    panel.append(make("p", {}, `In the history, nearest: ${names.join("; ")}`));
  }
  return panel;
}

function makeSimilar(items, click) {
  const entries = items.map((item) =>
    make(
      "li",
      {},
      make("span", {}, item.title),
      makeButton("Click", `Click ${item.title}`, () => click(item)),
    ),
  );
  const title = items.length > 0 ? "Similar items" : "There are no similar items.";
  const list = make("ol", { class: "plain" }, ...entries);
  return make("div", {}, make("p", {}, title), list);
}

// Shows a panel below an item, or hides it where it is shown already.
async function toggle(card, kind, load) {
  const shown = card.querySelector(".panel");
  const same = shown?.dataset.kind === kind;
  shown?.remove();
  if (same) {
    return;
  }
  const panel = make("div", { class: "panel", "data-kind": kind, role: "status" });
  panel.append("…");
  card.append(panel);
  try {
    panel.replaceChildren(await load());
  } catch (error) {
    panel.replaceChildren(error.message);
  }
}

function makeColumns(columns) {
  const cells = Object.entries(columns).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, showCell(value))),
  );
  return make("dl", { class: "columns" }, ...cells);
}

function makeCard(item, view, context) {
  const names = [make("strong", {}, item.title)];
  if (String(item.item_id) !== item.title) {
    names.push(make("span", { class: "id" }, String(item.item_id)));
  }
  if (context.isOnlyHere(item)) {
    names.push(make("span", { class: "mark" }, "only here"));
  }
  const score = make("span", { class: "score" }, showNumber(item.score));
  const head = make("div", { class: "head" }, ...names, score);
  const actions = make("div", { class: "actions" });
  const card = make("li", {}, head, makeColumns(item.columns), actions);
  const press = (text, action) =>
    actions.append(makeButton(text, `${text}: ${item.title}`, action));
  press("Click", () => context.click(item));
  press("Similar", () => toggle(card, "similar", () => loadSimilar(item, context)));
  if (context.explains && ["history", "events"].includes(view.source)) {
    press("Why", () => toggle(card, "why", () => loadReasons(item, view, context)));
  }
  return card;
}

async function loadSimilar(item, context) {
  return makeSimilar(await askSimilar(item.item_id), context.click);
}

async function loadReasons(item, view, context) {
  const reasons = await askWhy(context.writeWhy(item));
  const titles = view.history.map((past) => [past.item_id, past.title]);
  return makeReasons(reasons, new Map(titles));
}

function makeMove(row) {
  const change = row.before - row.after;
  if (change === 0) {
    return make("td", {}, String(row.before));
  }
  const sign = change > 0 ? "▲" : "▼";
  const kind = change > 0 ? "up" : "down";
  const move = make("span", { class: kind }, ` ${sign}${Math.abs(change)}`);
  return make("td", {}, String(row.before), move);
}

function makeSourceCells(row, sources) {
  return sources.flatMap((name) => [
    make("td", {}, showNumber(row.scores[name])),
    make("td", {}, showNumber(row.ranks[name])),
  ]);
}

function makeCandidateRow(row, sources) {
  return make(
    "tr",
    {},
    make("td", {}, String(row.after)),
    makeMove(row),
    make("th", { scope: "row" }, row.title),
    make("td", {}, showNumber(row.score)),
    ...makeSourceCells(row, sources),
  );
}

// A table of the candidates before and after ranking.
function makeCandidates(candidates) {
  const sources = Object.keys(candidates[0].scores);
  const heads = ["After", "Before", "Item", "Score"];
  heads.push(...sources.flatMap((name) => [name, "place"]));
  const cells = heads.map((head) => make("th", { scope: "col" }, head));
  const rows = candidates.map((row) => makeCandidateRow(row, sources));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...cells)));
  table.append(make("tbody", {}, ...rows));
  const label = "Candidates, scroll sideways for all sources";
  const frame = { class: "scroll", tabindex: "0", role: "region" };
  return make("div", { ...frame, "aria-label": label }, table);
}

function makePast(item) {
  const time = item.time === null ? "before training" : showTime(item.time);
  const name = make("span", {}, item.title);
  const kind = item.is_new ? "new" : null;
  return make("li", { class: kind }, name, make("small", {}, time));
}

function makeHistory(history) {
  if (history.length === 0) {
    return make("p", {}, "The model knows nothing of this user.");
  }
  return make("ol", { class: "plain past" }, ...history.map(makePast));
}

function fold(title, content, open) {
  return make("details", { open }, make("summary", {}, title), content);
}

function describe(view, context) {
  const parts = [SOURCES[view.source]];
  if (view.unknown_items.length > 0) {
    parts.push(`${view.unknown_items.length} of the clicks are on unknown items`);
  }
  if (view.reason) {
    parts.push(view.reason);
  }
  if (context.hasTwo && view.arm === view.own_arm) {
    parts.push("this is the model that the user gets");
  }
  return parts.join("; ");
}

// What the list rests on: the map, the history and the candidates.
function makeBehind(view, context) {
  const behind = make("div", { class: "behind" });
  const map = makeMap(context.known, view);
  if (map !== null) {
    behind.append(fold("Map", map, true));
  }
  const count = `History (${view.history.length})`;
  behind.append(fold(count, makeHistory(view.history), !context.hasTwo));
  if (view.candidates.length > 0) {
    const label = `Candidates (${view.candidates.length})`;
    behind.append(fold(label, makeCandidates(view.candidates), !context.hasTwo));
  }
  return behind;
}

// All that one model answers.
export function makeAnswer(view, context) {
  const title = context.hasTwo ? `${view.arm}: ${view.model}` : view.model;
  const answer = make("section", { class: "answer", "aria-label": title });
  answer.append(make("h2", {}, title), make("p", {}, describe(view, context)));
  const cards = view.items.map((item) => makeCard(item, view, context));
  const list = make("ol", { class: "list", "aria-label": "List" }, ...cards);
  answer.append(make("div", { class: "parts" }, list, makeBehind(view, context)));
  return answer;
}
