"""Record the page's examples: python -m training.examples

In the teacher's voices, which only a checkpoint of this recipe understands.
"""

from pathlib import Path

import numpy as np

from models.audio import write_wav

from .speech.speakers import SAMPLE_RATE, USER_PROSODY, Microphone, draw_user

EXAMPLES = Path(__file__).parent.parent / "examples"
# name: what is said, in which emotion, and the seed of the voice
RECORDINGS = {
    "1-bad-mood": ("最近心情不好，能聊聊吗？", "sad", 3),
    "2-job": ("我并不喜欢现在的工作。", "tired", 8),
    "3-esports": ("我想全职去打游戏，成为一名电竞选手，但是家里人不同意。", "anxious", 12),
    "4-family": ("家里人不同意我去当电竞选手。", "angry", 21),
    "5-assistant": ("你好，你叫什么名字呀？", "happy", 5),
    "6-customer-service": ("我的快递怎么还没到？", "angry", 30),
    "7-education": ("明天要考试了，我好紧张。", "anxious", 41),
    "8-health": ("我最近总是睡不着。", "tired", 17),
    "9-entertainment": ("给我推荐一部好看的电影吧。", "happy", 26),
}


def main() -> None:
    for name, (text, emotion, seed) in RECORDINGS.items():
        rng = np.random.default_rng(seed)
        wave, _ = draw_user(rng).say(text, USER_PROSODY[emotion])
        write_wav(EXAMPLES / f"{name}.wav", Microphone.draw(rng).record(wave), SAMPLE_RATE)


if __name__ == "__main__":
    main()
