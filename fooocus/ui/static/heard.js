// What a screen reader is told of a job: that it begins, each finished picture, a share of a long one, its end. The stage
// itself changes many times a second and says nothing; errors are alerts of their own.
(() => {
  const EVERY_MS = 15000; // between two shares, so that nobody is talked to all the time
  const region = document.createElement("p");
  region.id = "heard";
  region.setAttribute("role", "status");

  let told = { job: "", phase: "", saved: 0, share: 0, at: 0 };

  const say = (words) => {
    region.textContent = words;
    told.at = performance.now();
  };

  const look = () => {
    const stage = document.querySelector("#stage .stage");
    if (!stage) return;
    const { job, phase } = stage.dataset;
    const saved = Number(stage.dataset.saved ?? 0);
    const pictures = Number(stage.dataset.pictures ?? 1);
    const done = Number(stage.querySelector('[role="progressbar"]')?.getAttribute("aria-valuenow") ?? 0);
    const share = Math.floor(done / 25) * 25;
    const begins = phase !== told.phase || job !== told.job;
    if (!begins && saved === told.saved && share === told.share) return;
    const first = told.phase === ""; // an opened page is read from its beginning anyway
    const before = told;
    told = { job, phase, saved, share: begins ? 0 : told.share, at: told.at };
    if (first) return;
    if (begins && phase === "waiting") say("Waiting");
    else if (begins && phase === "running") say("Drawing");
    else if (begins && phase === "paused") say("Paused");
    else if (begins && phase === "finished") say("Done");
    else if (phase === "running" && saved > before.saved && pictures > 1) say(`Picture ${saved} of ${pictures} is done`);
    else if (phase === "running" && share > told.share && performance.now() - told.at > EVERY_MS) {
      told.share = share;
      say(`${share} % done`);
    }
  };

  new MutationObserver(look).observe(document.documentElement, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["data-phase", "data-job", "data-saved", "aria-valuenow"],
  });
  addEventListener("DOMContentLoaded", () => document.body.append(region));
  if (document.body) document.body.append(region);
})();
