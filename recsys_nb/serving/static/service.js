// Requests to the service that has given this page.

const TOKEN = "recsys-token"; // kept until the tab is closed

export class ServiceError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function rememberToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

// What is wrong, in a sentence: the service says it in words, or as a list of places.
function readDetail(answer) {
  if (typeof answer.detail === "string") {
    return answer.detail;
  }
  const problems = answer.detail.map((one) => `${one.loc.join(".")}: ${one.msg}`);
  return problems.join("; ");
}

function makeRequest(body) {
  const headers = {};
  if (hasToken()) {
    headers.authorization = `Bearer ${sessionStorage.getItem(TOKEN)}`;
  }
  if (body === undefined) {
    return { headers };
  }
  headers["content-type"] = "application/json";
  return { method: "POST", headers, body: JSON.stringify(body) };
}

// The answer to a GET, or with a body to a POST.
export async function ask(path, body) {
  const response = await fetch(path, makeRequest(body));
  const answer = await response.json();
  if (!response.ok) {
    throw new ServiceError(response.status, readDetail(answer));
  }
  return answer;
}

export function askWhy(question) {
  return ask("why", question);
}

// Items like an item, with titles and columns.
export async function askSimilar(itemId) {
  const place = encodeURIComponent(itemId);
  const { items } = await ask(`item/${place}/similar?k=8`);
  const ids = items.map((item) => item.item_id);
  if (ids.length === 0) {
    return [];
  }
  return (await ask("page/items", { item_ids: ids })).items;
}

// A command that asks for the same list from a terminal.
export function writeCommand(question) {
  const body = JSON.stringify(question).replaceAll("'", "'\\''");
  const address = new URL("recommend", document.baseURI);
  const lines = [`curl '${address}'`];
  if (hasToken()) {
    lines.push('  -H "authorization: Bearer $TOKEN"');
  }
  lines.push("  -H 'content-type: application/json'", `  -d '${body}'`);
  return lines.join(" \\\n");
}
