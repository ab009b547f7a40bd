// The question that a person puts together, and when it is asked.

import { find, make } from "./elements.js";
import { readRules, showFilters } from "./filters.js";
import { makeAnswer } from "./panels.js";
import { ask, rememberToken, writeCommand } from "./service.js";

const PAUSE = 200; // milliseconds after the last letter, until a search begins
const MOST_FOUND = 8; // users or items that a search shows

const state = {
  about: null, // what the service says of itself
  user: "", // who asks
  clicks: [], // items, with the time of the click
  maps: new Map(), // arm and model -> the items of its map
  asked: 0, // how often the lists were asked for
};

function showProblem(error) {
  find("token-form").hidden = error.status !== 401;
  find("problem").hidden = error.status === 401;
  find("problem").textContent = error.message;
}

function hideProblem() {
  find("token-form").hidden = true;
  find("problem").hidden = true;
}

// Runs what may fail, and shows what is wrong.
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    showProblem(error);
  }
}

// Calls an action once nobody has typed for a while.
function wait(action) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(() => attempt(action), PAUSE);
  };
}

// --- the question

function readLength() {
  const field = find("length");
  return field.validity.valid && field.value !== "" ? field.valueAsNumber : 10;
}

function writeEvents() {
  return state.clicks.map(({ item_id, timestamp }) => ({ item_id, timestamp }));
}

function writeQuestion() {
  const question = { user_id: state.user, k: readLength() };
  const rules = readRules();
  if (state.clicks.length > 0) {
    question.events = writeEvents();
  }
  if (!find("unseen").checked) {
    question.exclude_seen = false;
  }
  if (rules !== null) {
    question.where = rules;
  }
  return question;
}

// --- the answers

async function loadMap(arm) {
  const key = `${arm} ${state.about.models[arm]}`;
  if (!state.maps.has(key)) {
    const answer = await ask(`page/map?arm=${arm}`);
    state.maps.set(key, answer.items);
  }
  return state.maps.get(key);
}

function makeContext(view, known, others) {
  const elsewhere = new Set(others.flatMap((one) => one.items.map((i) => i.item_id)));
  const { arm } = view;
  return {
    known,
    click: addClick,
    explains: state.about.explains[arm],
    hasTwo: others.length > 0,
    isOnlyHere: (item) => others.length > 0 && !elsewhere.has(item.item_id),
    writeWhy: (item) => ({
      user_id: state.user,
      item_id: item.item_id,
      events: writeEvents(),
      arm,
    }),
  };
}

async function askAll() {
  const question = writeQuestion();
  find("command").textContent = writeCommand(question);
  const arms = Object.keys(state.about.models);
  const number = ++state.asked;
  const views = await Promise.all(
    arms.map((arm) => ask("page/view", { ...question, arm })),
  );
  const maps = await Promise.all(arms.map(loadMap));
  if (number !== state.asked) {
    return; // a newer question is on its way
  }
  hideProblem();
  const answers = views.map((view, place) => {
    const others = views.filter((other) => other !== view);
    return makeAnswer(view, makeContext(view, maps[place], others));
  });
  find("answers").replaceChildren(...answers);
}

const refresh = () => attempt(askAll);

// --- users

function chooseUser(user) {
  state.user = String(user);
  find("user").value = state.user;
  find("found-users").replaceChildren();
  refresh();
}

async function searchUsers() {
  const text = find("user").value.trim();
  const list = find("found-users");
  if (!state.about.finds_users || text === "") {
    list.replaceChildren();
    return;
  }
  const { users } = await ask("page/users", { text, k: MOST_FOUND });
  if (text === state.user || text !== find("user").value.trim()) {
    list.replaceChildren(); // chosen, or typed on, in the meantime
    return;
  }
  const entries = users.map((user) => {
    const press = { type: "button", click: () => chooseUser(user) };
    return make("li", {}, make("button", press, String(user)));
  });
  list.replaceChildren(...entries);
}

// --- clicks

function addClick(item) {
  const click = { item_id: item.item_id, title: item.title };
  state.clicks.push({ ...click, timestamp: new Date().toISOString() });
  find("item").value = "";
  find("found-items").replaceChildren();
  showClicks();
  refresh();
}

function removeClick(click) {
  state.clicks = state.clicks.filter((other) => other !== click);
  showClicks();
  find("item").focus();
  refresh();
}

function showClicks() {
  const entries = state.clicks.map((click) => {
    const label = `Take back the click on ${click.title}`;
    const press = { type: "button", "aria-label": label };
    const button = make("button", { ...press, click: () => removeClick(click) }, "×");
    return make("li", {}, click.title, button);
  });
  find("clicks").replaceChildren(...entries);
}

async function searchItems() {
  const text = find("item").value.trim();
  const list = find("found-items");
  if (text === "") {
    list.replaceChildren();
    return;
  }
  const { items } = await ask("page/items", { text, k: MOST_FOUND });
  if (text !== find("item").value.trim()) {
    return; // typed on, in the meantime
  }
  const entries = items.map((item) => {
    const press = { type: "button", click: () => addClick(item) };
    return make("li", {}, make("button", press, item.title));
  });
  list.replaceChildren(...entries);
}

async function clickFirst() {
  await searchItems();
  find("found-items").querySelector("button")?.click();
}

// --- the beginning

function showAbout(about) {
  state.about = about;
  const models = Object.values(about.models).join(" and ");
  const sizes = [about.n_users, about.n_items].map((n) => n.toLocaleString("en"));
  find("served").textContent = `${models}: ${sizes[0]} users, ${sizes[1]} items`;
  find("user-help").textContent = about.finds_users
    ? "Type the beginning of an id, or any id."
    : "Type the whole id.";
  showFilters(about.filters);
}

async function begin() {
  showAbout(await ask("page/about"));
  await askAll();
}

function submit(id, action) {
  find(id).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(action);
  });
}

async function copyCommand() {
  const button = find("copy");
  await navigator.clipboard.writeText(find("command").textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

submit("user-form", () => chooseUser(find("user").value.trim()));
submit("item-form", clickFirst);
submit("options-form", askAll);
submit("token-form", () => {
  rememberToken(find("token").value);
  return begin();
});
find("user").addEventListener("input", wait(searchUsers));
find("item").addEventListener("input", wait(searchItems));
find("options-form").addEventListener("change", refresh);
find("copy").addEventListener("click", () => attempt(copyCommand));
attempt(begin);
