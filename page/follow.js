// What is new stays in sight, and the text of a reply grows with its sound. Precedes chat.js, in
// whose scope it runs.
const log = element.querySelector(".log");
const NEAR = 140; // pixels from the end
let isAtEnd = true; // where the reader is, or was before more came
let top = 0; // as it was last scrolled to
let ending = false;
let following = false;

log.addEventListener("scroll", () => {
  if (log.scrollTop === top) return; // toEnd did it, and more may have come since
  top = log.scrollTop;
  isAtEnd = log.scrollHeight - top - log.clientHeight < NEAR;
});

// At most once a frame: to know a size, the browser lays the page out. Who scrolls up before it
// comes to that stays there.
function toEnd() {
  isAtEnd = true;
  if (ending) return;
  ending = true;
  requestAnimationFrame(() => {
    ending = false;
    if (!isAtEnd) return;
    log.scrollTop = log.scrollHeight;
    top = log.scrollTop;
  });
}

// How much of a reply's text is said at a time of its speech.
function saidUntil(reply, seconds) {
  let [characters, since] = [0, 0];
  for (const [end, until] of reply.marks) {
    if (until >= seconds) {
      const share = Math.max(0, seconds - since) / Math.max(until - since, 1e-6);
      return reply.text.slice(0, Math.ceil(characters + share * (end - characters)));
    }
    [characters, since] = [end, until];
  }
  return reply.text;
}

// While a reply sounds, its text grows with it; where it is stopped, no more than that is shown.
function follow() {
  let sounds = false;
  for (const { bot, turn } of rows.values()) {
    const position = window.pagePlayer?.position(turn.name) ?? Infinity;
    const text = bot.querySelector(".text").firstChild;
    const isHeard = position !== Infinity;
    const shown = isHeard ? saidUntil(turn.reply, position) : turn.reply.text;
    const said = shown || (turn.reply.growing || isHeard ? "…" : words.no_words);
    if (text.data !== said) {
      text.data = said;
      if (isAtEnd) toEnd();
    }
    const isBusy = String(turn.reply.growing || isHeard);
    if (bot.ariaBusy !== isBusy) bot.ariaBusy = isBusy; // what is read aloud is the whole reply
    bot.classList.toggle("sounding", isHeard && !turn.reply.stopped);
    sounds ||= isHeard;
  }
  if (sounds && !following) {
    following = true;
    setTimeout(() => {
      following = false;
      follow();
    }, 60);
  }
}

window.addEventListener("spoken", follow);
