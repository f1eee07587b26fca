// A sound or a turn is looked at; the pictures are made in draw.js.
const place = element.querySelector(".inspect");
const status = make("p", { className: "line", role: "status" });
const bar = make("progress", { hidden: true, max: 1, "aria-label": words.making });
const seen = make("div", { className: "stack" });
const file = make("input", { type: "file", accept: "audio/*,video/mp4,.amr,.3gp", className: "unseen", tabindex: -1, "aria-hidden": "true" });
const name = make("span", { className: "hint" }, words.inspect_nothing);
const examples = choice([["", words.inspect_example], ...props.recordings.map(({ path, name: text }) => [path, text[language]])]);
const text = make("textarea", { rows: 1 });
const record = button(words.inspect_record, recording);
const look = button(words.inspect_look, () => ask(false), "plain");
const answer = button(words.inspect_answer, () => ask(true), "primary");
let path = null;
let isSpoken = false; // what is looked at
let recorder = null;
let opening = false;
let ended = null; // the promise that what is recorded is given
let taking = null; // the upload under way, or the last one: whether it leaves something to look at
let kept = null; // a recording that could not be uploaded, for the next look
let failed = false; // what was chosen or recorded last did not come

function say(message, isFault = false) {
  status.textContent = message ?? "";
  status.classList.toggle("fault", isFault);
}

function took(given, shown) {
  path = given;
  name.textContent = shown;
}

// What is looked at is named at once; whoever asks meanwhile waits for it.
function take(given, shown, isRecording = false) {
  examples.value = "";
  kept = null;
  failed = false;
  took(null, shown);
  say(filled(words.test_uploading, { name: shown }));
  const mine = (taking = (async () => {
    try {
      const sent = await upload(given);
      if (mine !== taking) return taking ?? !failed;
      path = sent.path;
      say("");
      return true;
    } catch (error) {
      if (mine !== taking) return taking ?? !failed;
      taking = null;
      failed = true;
      if (isRecording) kept = given;
      else took(null, words.inspect_nothing);
      say(window.pageUploadFault(error, given, isRecording ? words.inspect_look : null), true);
      return false;
    }
  })());
}

file.onchange = () => {
  const given = file.files[0];
  file.value = "";
  if (given) take(given, given.name);
};
examples.onchange = () => {
  taking = kept = null;
  failed = false;
  if (!recorder && !look.disabled) say("");
  took(examples.value || null, examples.value ? examples.selectedOptions[0].text : words.inspect_nothing);
};

// The microphone is closed as soon as a recording ends, whatever ends it.
async function recording() {
  if (recorder) return recorder.stop();
  if (opening) return;
  opening = true;
  window.pageTell("silence");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    if (!place.offsetParent) return stream.getTracks().forEach((track) => track.stop());
    recorder = new MediaRecorder(stream);
    const pieces = [];
    recorder.ondataavailable = ({ data }) => pieces.push(data);
    ended = new Promise((resolve) => {
      recorder.onstop = () => {
        clearTimeout(timer);
        for (const track of stream.getTracks()) track.stop();
        const kind = recorder.mimeType.split(";")[0];
        recorder = null;
        record.textContent = words.inspect_record;
        take(new File(pieces, `recording.${kind.endsWith("mp4") ? "m4a" : "webm"}`, { type: kind }), words.recording, true);
        resolve();
      };
    });
    const timer = setTimeout(() => recorder?.stop(), 1000 * (props.max_seconds - 1));
    recorder.start();
    record.textContent = words.inspect_record_stop;
    say(words.inspect_recording);
  } catch {
    recorder = null;
    say(words.inspect_no_microphone, true);
  } finally {
    opening = false;
  }
}

async function ask(answers) {
  running(true);
  if (recorder) {
    recorder.stop();
    await ended;
  }
  if (kept) take(kept, words.recording, true);
  if (taking && !(await taking)) return running(false);
  seen.replaceChildren();
  say(words.inspect_looking);
  isSpoken = path !== null;
  window.inspectAsk({ path, text: answers ? text.value : "", answers });
}

function running(is) {
  look.disabled = answer.disabled = is;
  bar.hidden = !is;
  if (is) bar.removeAttribute("value");
}

window.addEventListener("refused", ({ detail }) => detail.name === "_look" && show({ done: true }));

// The value is the number of what was asked, and a line of JSON for each step so far.
let asked = null;
let numSeen = 0;
window.inspectSeen = (value) => {
  const [number, ...lines] = value.split("\n");
  if (number !== asked) numSeen = 0;
  asked = number;
  const whole = lines.slice(0, -1);
  whole.slice(numSeen).forEach((line) => show(JSON.parse(line)));
  numSeen = Math.max(numSeen, whole.length);
};

function show(given) {
  if (given.fault) {
    running(false);
    return say(given.fault[language], true);
  }
  if (given.done) {
    running(false);
    return say("");
  }
  if (given.progress) {
    bar.max = given.progress.total;
    bar.value = given.progress.done;
    return;
  }
  if (given.sound) pair(sound(words.inspect_sound, given.sound, words.inspect_sound_about));
  if (given.copy) {
    pair(sound(words.inspect_copy, given.copy, words.inspect_copy_about));
    seen.append(grid(words.inspect_codes, given.copy.grid));
  }
  if (given.no_codec) seen.append(make("p", { className: "hint" }, words.inspect_no_codec));
  if (given.turn) seen.append(grid(words.inspect_read, given.turn.grid, words.inspect_read_about));
  if (given.reply) reply(given.reply);
}

// The sound and its copy stand side by side where there is room.
function pair(part) {
  const last = seen.lastElementChild;
  if (last?.className === "pair") last.append(part);
  else seen.append(make("div", { className: "pair" }, part));
}

function sound(title, given, about) {
  const audio = make("audio", { controls: "", preload: "none", src: address(given.path), "aria-label": title });
  const pitches = given.pitch.filter((hz) => hz !== null);
  const of = (key) => `${words[key]}, ${title}`;
  return make("section", { className: "sound" },
    make("h2", {}, title), about ? make("p", { className: "hint" }, about) : null, audio,
    make("p", { className: "hint" }, `${given.seconds.toFixed(2)} s · ${given.sample_rate} Hz`),
    waveform(given.outline, of("inspect_wave")),
    figure("inspect_mel", spectrogram(given.mel, of("inspect_mel"))),
    figure("inspect_pitch", pitches.length ? curve(given.pitch, 60, 500, [80, 160, 320], true, of("inspect_pitch")) : null),
    figure("inspect_loudness", curve(given.loudness, -70, 0, [-60, -40, -20], false, of("inspect_loudness"))),
    lively(given.liveliness));
}

function figure(key, picture) {
  return make("figure", {}, make("figcaption", {}, words[key]), picture ?? make("p", { className: "hint" }, words.inspect_no_pitch));
}

function lively(given) {
  if (!given) return make("p", { className: "hint" }, words.inspect_no_liveliness);
  const values = { hz: given.median_hz.toFixed(0), spread: given.spread.toFixed(1), pace: given.pace.toFixed(1), score: given.score.toFixed(1) };
  return make("div", { className: "lively" }, make("p", {}, make("strong", {}, words[`inspect_${given.word}`]), ` ${words[`inspect_${given.word}_as`]}`),
    make("p", { className: "hint" }, filled(words.inspect_lively_from, values)));
}

// Columns of tokens: the text's row, the codes' rows tinted by their values.
function grid(title, given, about) {
  const counts = filled(words.inspect_columns, { count: given.count, semantic: given.num_semantic });
  const more = given.count > given.text.length ? ` ${filled(words.inspect_first, { count: given.text.length })}` : "";
  const most = Math.max(1, ...given.codes.flat());
  const shown = (token) => token.replaceAll("\n", "⏎").replaceAll(" ", "␣").replace("<|semantic|>", "◦").replace(/<\|(.*)\|>/, "$1");
  const text = make("tr", {}, make("th", { scope: "row" }, words.text), ...given.text.map((token, i) =>
    make("td", { className: given.semantic[i] ? "semantic" : "said", title: token }, shown(token))));
  const rows = given.codes.map((codes, row) => make("tr", {}, make("th", { scope: "row" }, filled(words.inspect_code, { row: row + 1 })),
    ...codes.map((code, i) => make("td", { className: given.semantic[i] ? "" : "unread", style: code < 0 ? null : `--value: ${((60 * code) / most).toFixed(0)}%` }, code < 0 ? "" : code))));
  return make("section", {}, make("h2", {}, title), about ? make("p", { className: "hint" }, about) : null, make("p", { className: "hint" }, counts + more),
    make("div", { className: "scroll grid-box", tabindex: 0, role: "region", "aria-label": title }, make("table", { className: "tokens" }, make("tbody", {}, text, ...rows))));
}

function reply(given) {
  const word = (key) => props.words[key]?.[language] ?? key;
  const told = [[isSpoken ? words.perceived_spoken : words.perceived_written, given.emotion && word(given.emotion)], [words.tone, given.style && word(given.style)], [words.seed, given.seed]];
  const facts = told.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([key, value]) => `${key}: ${value}`);
  if (given.heard) facts.push(filled(words.heard, { syllables: given.heard }));
  seen.append(make("section", {}, make("h2", {}, words.inspect_reply), make("p", { className: "said-text" }, given.text), make("p", { className: "hint" }, facts.join(" · "))));
  if (given.path) pair(sound(words.inspect_reply_sound, given));
  seen.append(timings(given.timings));
  if (given.grid) seen.append(grid(words.inspect_said, given.grid, words.inspect_said_about));
}

function timings(given) {
  const seconds = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(3)} s`);
  const rows = [
    [words.inspect_first_frame, seconds(given.first_frame)],
    [words.inspect_first_sound, seconds(given.first_sound)],
    [words.inspect_whole, seconds(given.total)],
    [words.inspect_frames, String(given.frames)],
    [words.inspect_median, seconds(given.median)],
    [words.inspect_slowest, seconds(given.slowest)],
    [words.inspect_allowed, seconds(given.allowed)],
    [words.inspect_factor, given.factor === null ? "–" : given.factor.toFixed(3)],
  ];
  return make("section", {}, make("h2", {}, words.inspect_timings), make("p", { className: "hint" }, words.inspect_timings_about),
    given.intervals.length ? figure("inspect_each", bars(given.intervals, given.allowed, words.inspect_each)) : null,
    make("table", {}, make("tbody", {}, ...rows.map(([key, value]) => make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, value))))));
}

place.append(
  make("p", { className: "hint" }, words.inspect_about),
  make("div", { className: "buttons" }, file, button(words.inspect_upload, () => file.click()), record, props.recordings.length ? examples : null, name),
  labelled(words.inspect_text, text, words.inspect_text_about),
  make("div", { className: "buttons" }, look, answer), bar, status, seen,
);
examples.ariaLabel = words.inspect_example;
new ResizeObserver(() => {
  if (!place.offsetParent) recorder?.stop(); // in another tab nobody would see that it records
}).observe(place);
