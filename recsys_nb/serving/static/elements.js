// Elements of the page. Text is always added as text, never as markup, so that no
// title of an item can become a part of the page.

const SVG = "http://www.w3.org/2000/svg";

function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    return;
  }
  if (typeof value === "function") {
    element.addEventListener(name, value);
    return;
  }
  element.setAttribute(name, value === true ? "" : value);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    setAttribute(element, name, value);
  }
  element.append(...children);
  return element;
}

// An element; a function among the attributes listens to the event of that name.
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// An element of a drawing.
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function find(id) {
  return document.getElementById(id);
}

// A number with few digits; a dash where there is none.
export function showNumber(value) {
  if (typeof value !== "number") {
    return "–";
  }
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

// A cell of the items table.
export function showCell(value) {
  if (value === null) {
    return "–";
  }
  if (Array.isArray(value)) {
    return value.map(showCell).join(", ");
  }
  if (typeof value === "number" && !Number.isInteger(value)) {
    return value.toLocaleString("en", { maximumFractionDigits: 2 });
  }
  return String(value);
}

// A moment as the reader writes it.
export function showTime(text) {
  if (!text.includes("T")) { // a date, the same in every zone
    const day = { dateStyle: "medium", timeZone: "UTC" };
    return new Date(`${text}T00:00Z`).toLocaleDateString(undefined, day);
  }
  const hasZone = /(Z|[+-]\d\d:\d\d)$/.test(text);
  const moment = new Date(hasZone ? text : `${text}Z`);
  const style = { dateStyle: "medium", timeStyle: "short" };
  return moment.toLocaleString(undefined, style);
}
