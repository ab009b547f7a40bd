// The map: items as points, the history, the list and the user among them.

import { draw, make } from "./elements.js";

const WIDTH = 400;
const HEIGHT = 280;
const MARGIN = 14;
const STAR = "M0-9 2.6-3 9-2.8 4-1.2 5.6 7.3 0 3.6-5.6 7.3-4 1.2-9-2.8-2.6-3z";

// A function from places to points of the drawing that shows all places.
function makeScale(places) {
  const ends = [0, 1].map((axis) => {
    const values = places.map((place) => place[axis]);
    return [Math.min(...values), Math.max(...values)];
  });
  const sizes = [WIDTH, HEIGHT];
  return (place) =>
    place.map((value, axis) => {
      const [low, high] = ends[axis];
      const share = (value - low) / (high - low || 1);
      return MARGIN + share * (sizes[axis] - 2 * MARGIN);
    });
}

function drawItem(item, scale, kind, radius) {
  const [x, y] = scale(item.place);
  const point = draw("circle", { cx: x, cy: y, r: radius, class: kind });
  point.append(draw("title", {}, item.title));
  return point;
}

function drawUser(place, scale) {
  const [x, y] = scale(place);
  const move = `translate(${x} ${y})`;
  const star = draw("path", { d: STAR, transform: move, class: "user" });
  star.append(draw("title", {}, "this user"));
  return star;
}

function makeLegend() {
  const kinds = ["history", "listed", "user"];
  const names = ["history", "list", "user"];
  const entries = kinds.map((kind, number) =>
    make("li", { class: `legend-${kind}` }, names[number]),
  );
  return make("ul", { class: "legend" }, ...entries);
}

// The map of a model with what was answered; null where the model has no vectors.
export function makeMap(known, view) {
  if (known.length === 0) {
    return null;
  }
  const history = view.history.filter((item) => item.place);
  const listed = view.items.filter((item) => item.place);
  const all = [...known, ...history, ...listed].map((item) => item.place);
  const scale = makeScale(view.place ? [...all, view.place] : all);
  const label = `Map of ${known.length} items with the history and the list`;
  const picture = draw("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": label,
  });
  picture.append(
    ...known.map((item) => drawItem(item, scale, `item group-${item.group}`, 1.8)),
    ...history.map((item) => drawItem(item, scale, "history", 4)),
    ...listed.map((item) => drawItem(item, scale, "listed", 4.5)),
  );
  if (view.place) {
    picture.append(drawUser(view.place, scale));
  }
  return make("div", { class: "map" }, picture, makeLegend());
}
