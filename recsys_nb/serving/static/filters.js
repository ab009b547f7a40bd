// Filters: a field for each column of the items table that a rule may be about.

import { find, make, showCell } from "./elements.js";

const readers = new Map(); // column -> a function that reads its rule

function makeChoice(about) {
  const any = make("option", { value: "" }, "any");
  const options = about.words.map((word, place) =>
    make("option", { value: String(place) }, showCell(word)),
  );
  const field = make("select", { id: `filter-${about.name}` }, any, ...options);
  const read = () => (field.value === "" ? null : about.words[Number(field.value)]);
  return { fields: [field], read };
}

function makeEnd(about, end) {
  const isDate = about.kind === "dates";
  const shown = isDate ? about[end].slice(0, 10) : showCell(about[end]);
  const label = `${about.name}, ${end === "min" ? "at least" : "at most"}`;
  const kind = isDate ? { type: "date" } : { type: "number", step: "any" };
  const words = { "aria-label": label, placeholder: shown };
  return make("input", { ...kind, ...words });
}

function readEnd(field) {
  if (field.value === "") {
    return null;
  }
  return field.type === "number" ? field.valueAsNumber : field.value;
}

function makeRange(about) {
  const fields = [makeEnd(about, "min"), makeEnd(about, "max")];
  fields[0].id = `filter-${about.name}`;
  const read = () => {
    const [min, max] = fields.map(readEnd);
    return min === null && max === null ? null : { min, max };
  };
  return { fields, read };
}

function makeFilter(about) {
  const { fields, read } = about.words ? makeChoice(about) : makeRange(about);
  readers.set(about.name, read);
  const label = make("label", { for: `filter-${about.name}` }, about.name);
  const row = make("div", { class: "row" }, ...fields);
  return make("div", { class: "filter" }, label, row);
}

export function showFilters(filters) {
  find("filter-fields").replaceChildren(...filters.map(makeFilter));
  find("filters").hidden = filters.length === 0;
}

// The rules that the reader has chosen; null where there are none.
export function readRules() {
  const rules = {};
  for (const [column, read] of readers) {
    const rule = read();
    if (rule !== null) {
      rules[column] = rule;
    }
  }
  return Object.keys(rules).length > 0 ? rules : null;
}
