// The microphone as mono pieces of float samples. One is open at a time; closing it ends its tracks.
{
  const PIECE_SECONDS = 0.02;
  const RATE = 24000; // enough for speech; a browser that can't convert gives its own
  const SOUND = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  const WORKLET = `registerProcessor("pieces", class extends AudioWorkletProcessor {
    piece = new Float32Array(Math.round(${PIECE_SECONDS} * sampleRate));
    filled = 0;
    process([[samples]]) {
      for (const sample of samples ?? []) {
        this.piece[this.filled++] = sample;
        if (this.filled < this.piece.length) continue;
        this.port.postMessage(this.piece.slice());
        this.filled = 0;
      }
      return true;
    }
  });`;
  const FAULTS = {
    NotAllowedError: "microphone_refused",
    SecurityError: "microphone_refused",
    NotFoundError: "microphone_absent",
    OverconstrainedError: "microphone_absent",
  };
  let opened = null;

  function close() {
    opened?.stream?.getTracks().forEach((track) => {
      track.onended = null;
      track.stop();
    });
    opened?.context?.close();
    opened = null;
  }

  async function connect(stream, rate, onPiece) {
    const context = new AudioContext(rate ? { sampleRate: rate } : {});
    try {
      const source = context.createMediaStreamSource(stream); // Firefox: not at another rate
      const script = URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" }));
      await context.audioWorklet.addModule(script);
      URL.revokeObjectURL(script);
      const node = new AudioWorkletNode(context, "pieces", { numberOfOutputs: 0 });
      node.port.onmessage = ({ data }) => onPiece(data, context.sampleRate);
      source.connect(node);
      await context.resume();
      return context;
    } catch (error) {
      context.close();
      throw error;
    }
  }

  // Opens it: pieces come until `close`, or `onLost` is told why they end. Gives the key of what
  // went wrong, or null; false if it was closed meanwhile.
  async function open(onPiece, onLost) {
    close();
    const mine = (opened = {});
    if (!navigator.mediaDevices?.getUserMedia) {
      close();
      return "insecure";
    }
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: SOUND });
      if (mine !== opened) {
        stream.getTracks().forEach((track) => track.stop());
        return false;
      }
      mine.stream = stream;
      const hear = (samples, rate) => mine === opened && onPiece(samples, rate);
      const context = await connect(stream, RATE, hear).catch(() => connect(stream, 0, hear));
      if (mine !== opened) {
        context.close();
        return false;
      }
      mine.context = context;
      for (const track of stream.getTracks()) {
        track.onended = () => {
          close();
          onLost("microphone_lost");
        };
      }
      return null;
    } catch (error) {
      if (mine !== opened) return false;
      close();
      return FAULTS[error.name] ?? "microphone_taken";
    }
  }

  function pcm(pieces) {
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    const samples = new Int16Array(length);
    let place = 0;
    for (const piece of pieces) {
      for (const sample of piece) samples[place++] = Math.max(-1, Math.min(1, sample)) * 32767;
    }
    return samples;
  }

  function wav(pieces, rate) {
    const samples = pcm(pieces);
    const head = new DataView(new ArrayBuffer(44));
    const write = (place, text) => [...text].forEach((letter, i) => head.setUint8(place + i, letter.charCodeAt(0)));
    write(0, "RIFF");
    head.setUint32(4, 36 + 2 * samples.length, true);
    write(8, "WAVEfmt ");
    head.setUint32(16, 16, true);
    head.setUint16(20, 1, true);
    head.setUint16(22, 1, true);
    head.setUint32(24, rate, true);
    head.setUint32(28, 2 * rate, true);
    head.setUint16(32, 2, true);
    head.setUint16(34, 16, true);
    write(36, "data");
    head.setUint32(40, 2 * samples.length, true);
    return new File([head, samples], "recording.wav", { type: "audio/wav" });
  }

  function base64(pieces) {
    const bytes = new Uint8Array(pcm(pieces).buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
  }

  window.pageMicrophone = { open, close, wav, base64 };
  window.addEventListener("pagehide", close);
}
