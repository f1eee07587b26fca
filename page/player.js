// Plays a reply while it is being made, sample by sample as the server made it.
//
// The value is "call turn rate\n", where the call is the number of the page's that asked for it, then
// a line "index base64 of int16 PCM\n" for each piece: for a while the value grows, then it begins
// anew with the last ones, so that it stays short. In the end "END number of pieces\n" follows. Pieces
// follow one another without a gap: each starts at the very sample at which the one before it ends.
const MIN_LEAD = 0.06; // seconds between a piece's arrival and its sound
const MAX_LEAD = 1.0; // after a gap, where pieces come slower than they sound
const MAX_FIRST_LEAD = 0.25; // at the beginning of a turn, if the one before it had a gap
const DRAW_MS = 80; // from one drawing to the next, between which page.css moves the bars
const MARGIN = 256; // samples; what starts sooner than this comes too late

let rate = props.sample_rate;
const contexts = {}; // by rate; each plays the samples as they are
let context = null;
let meter = null;
let turn = null;
let silenced = null;
let over = 0; // the number of the last call for what is not to be heard, however late it comes
let numLines = 0;
let begin = 0; // of what sounds without a gap, in samples of the context's clock
let before = 0; // samples of this turn that sounded before it
let next = 0; // where the next piece goes
let lead = MIN_LEAD;
let late = false;
let pieces = [];
let total = 0; // samples of this turn so far
let heardAll = null; // the turn of which no more will come
let drawing = false;
let stopped = null; // {turn, seconds, since}: silenced, and how much was heard

function wake() {
  if (!contexts[rate]) {
    const made = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    contexts[rate] = { made, analyser: made.createAnalyser() };
    contexts[rate].analyser.fftSize = 512;
    contexts[rate].analyser.connect(made.destination);
  }
  [context, meter] = [contexts[rate].made, contexts[rate].analyser];
  if (context.state === "suspended") context.resume();
}

// Seconds of the turn's speech that have been heard; gaps don't count.
function seconds() {
  if (!turn || !total) return 0;
  return Math.min(total, before + Math.max(0, context.currentTime * rate - begin)) / rate;
}

function silence() {
  if (turn && pieces.length) stopped = { turn, seconds: seconds(), since: performance.now() };
  silenced = turn;
  for (const piece of pieces) piece.stop();
  pieces = [];
  next = 0;
  said();
}

let speaking = false;

function said() {
  element.querySelector(".player").classList.toggle("speaking", pieces.length > 0);
  const now = pieces.length > 0 || (speaking && turn !== silenced && heardAll !== turn);
  if (now === speaking) return;
  speaking = now;
  window.pageTell("spoken", now ? turn : null);
}

window.pagePlayer = {
  isSpeaking: () => speaking,
  // What was heard of the reply that sounds; null if none does.
  heard: () => (speaking ? { turn, seconds: seconds() } : null),
  // Seconds up to which a reply's text is said; Infinity if it does not sound.
  position(name) {
    if (context?.state !== "running") return Infinity;
    if (speaking && name === turn) return seconds();
    const isFresh = stopped?.turn === name && performance.now() - stopped.since < 1500;
    return isFresh ? stopped.seconds : Infinity;
  },
};

function decode(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 2 }, (_, i) => view.getInt16(2 * i, true) / 32768);
}

function schedule(samples) {
  const now = context.currentTime * rate;
  if (next < now + MARGIN) {
    if (numLines > 0) {
      late = true;
      lead = Math.min(MAX_LEAD, 2 * lead + 0.1);
    }
    begin = next = Math.ceil(now + lead * rate);
    before = total;
  }
  const buffer = context.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  const piece = context.createBufferSource();
  piece.buffer = buffer;
  piece.connect(meter);
  piece.onended = () => {
    pieces = pieces.filter((other) => other !== piece);
    said();
  };
  piece.start(next / rate);
  pieces.push(piece);
  next += samples.length;
  total += samples.length;
  if (numLines === 0) window.pageTell("first-sound", { turn, at: performance.now() + 1000 * (begin / rate - context.currentTime) });
  said();
}

function start(name) {
  window.pageTell("silence");
  turn = name;
  silenced = null;
  total = 0;
  numLines = 0;
  lead = late ? Math.min(MAX_FIRST_LEAD, lead) : MIN_LEAD;
  late = false;
}

function receive() {
  const [head, ...lines] = (props.value || "").split("\n");
  const [call, name, itsRate] = head.split(" ");
  if (!name || name === silenced || Number(call) <= over) return;
  if (name !== turn) start(name);
  rate = Number(itsRate);
  wake();
  for (const line of lines.slice(0, -1)) {
    const [index, base64] = line.split(" ");
    if (index === "END") heardAll = turn;
    if (index === "END" || Number(index) !== numLines) continue;
    schedule(decode(base64));
    numLines += 1;
  }
  said();
  if (!drawing) draw();
}

const bars = [...element.querySelectorAll(".bars i")];
const clock = element.querySelector(".clock");
const levels = new Uint8Array(256);

function draw() {
  drawing = pieces.length > 0;
  if (!drawing) return;
  meter.getByteFrequencyData(levels);
  bars.forEach((bar, i) => {
    const band = levels.slice(4 * (i + 1) ** 2, 4 * (i + 2) ** 2);
    const level = Math.max(...band) / 255;
    bar.style.transform = `scaleY(${Math.max(0.18, level).toFixed(2)})`;
  });
  const now = seconds();
  const time = `${Math.floor(now / 60)}:${String(Math.floor(now % 60)).padStart(2, "0")}`;
  if (clock.textContent !== time) clock.textContent = time;
  setTimeout(() => requestAnimationFrame(draw), DRAW_MS);
}

watch("value", receive);
window.addEventListener("silence", silence);
window.addEventListener("leave", ({ detail: kept }) => {
  if (kept !== "reply") over = window.pageCalls;
});
window.addEventListener("pointerdown", wake);
window.addEventListener("keydown", wake);
