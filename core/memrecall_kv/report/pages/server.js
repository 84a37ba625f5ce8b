"use strict";
// Asks the server it came from. The key lives in this variable alone; what comes back is shown in a frame of its own,
// in which the report can run nothing and the page of a bank only its search.
const at = (id) => document.getElementById(id);
let key = "";
let asking = null;

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const said = problem.detail ? `${problem.detail} ${problem.hint}` : `The server answered ${response.status}.`;
  throw Object.assign(new Error(said), { status: response.status });
}

function say(text, isWrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("no", isWrong);
}

async function begin() {
  try {
    const { banks } = await (await call("/v1/banks")).json();
    at("bank").replaceChildren(
      ...banks.map(({ name, stats }) => new Option(`${name} (${stats.documents.toLocaleString("en")} documents)`, name)),
    );
    at("entry").hidden = true;
    at("asking").hidden = false;
    at("forget").hidden = !key;
    say(banks.length ? "" : "There is no bank that this key opens.");
    at("question").focus();
  } catch (error) {
    const was = key;
    key = "";
    at("asking").hidden = true;
    at("entry").hidden = error.status !== 401;
    say(error.status === 401 && !was ? "" : error.message, true);
    at("key").focus();
  }
}

function show(page, title, file, sandbox) {
  const frame = document.createElement("iframe");
  frame.title = title;
  frame.setAttribute("sandbox", sandbox);
  // in a frame a bare #place would be one of the page around it
  frame.srcdoc = page.replaceAll('href="#', 'href="about:srcdoc#');
  if (sandbox === "allow-same-origin") frame.addEventListener("load", () => fit(frame));
  at("shown").replaceChildren(frame);
  URL.revokeObjectURL(at("save").href);
  at("save").href = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  at("save").download = file;
  at("saving").hidden = false;
}

function fit(frame) {
  const page = frame.contentDocument.documentElement;
  const grow = () => { frame.style.height = `${page.scrollHeight + 4}px`; };
  new ResizeObserver(grow).observe(frame.contentDocument.body);
  grow();
}

function isBusy(busy) {
  for (const id of ["ask", "explore", "forget"]) at(id).disabled = busy;
  at("cancel").hidden = !busy;
}

async function fetched(doing, path, options) {
  asking = new AbortController();
  isBusy(true);
  const began = Date.now();
  const tell = () => say(`${doing} ${Math.round((Date.now() - began) / 1000)} s`);
  const clock = setInterval(tell, 1000);
  say(doing);
  try {
    const page = await (await call(path, { ...options, signal: asking.signal })).text();
    say("Done.");
    return page;
  } catch (error) {
    say(error.name === "AbortError" ? "Cancelled." : error.message, error.name !== "AbortError");
    return null;
  } finally {
    clearInterval(clock);
    isBusy(false);
  }
}

at("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  at("key").value = "";
  begin();
});

at("asking").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ bank: at("bank").value, question: at("question").value });
  const headers = { "Content-Type": "application/json" };
  const page = await fetched("Asking …", "/v1/report", { method: "POST", headers, body });
  if (page !== null) show(page, "Recall report", "report.html", "allow-same-origin");
});

at("explore").addEventListener("click", async () => {
  const page = await fetched("Looking …", `/v1/banks/${encodeURIComponent(at("bank").value)}/page`);
  if (page !== null) show(page, "Page of the bank", "bank.html", "allow-scripts");
});

at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!at("ask").disabled) at("asking").requestSubmit();
  }
});

at("cancel").addEventListener("click", () => asking.abort());

at("forget").addEventListener("click", () => {
  key = "";
  at("shown").replaceChildren();
  at("saving").hidden = true;
  URL.revokeObjectURL(at("save").href);
  begin();
});

begin();
