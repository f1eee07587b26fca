"""The page's example recordings, by the recipe's synthesiser: python -m training.examples"""

from pathlib import Path

import numpy as np
import torch

from models.audio import write_wav

from .synthesise import SAMPLE_RATE, speak_user

FOLDER = Path(__file__).parents[1] / "examples"
# file name -> (emotion, words): the four inputs that the published demo is known by, then one of
# each scene.
EXAMPLES = {
    "1-bad-mood": ("sad", "最近心情不好，能聊聊吗？"),
    "2-job": ("tired", "我并不喜欢现在的工作。"),
    "3-esports": ("anxious", "我想全职去打游戏，成为一名电竞选手，但是家里人不同意。"),
    "4-family": ("angry", "家里人不同意我去当电竞选手。"),
    "5-assistant": ("neutral", "今天出门要不要带伞？"),
    "6-customer-service": ("angry", "我的快递怎么还没到？"),
    "7-education": ("anxious", "快考试了，我好紧张。"),
    "8-health": ("tired", "我最近总是睡不着。"),
    "9-entertainment": ("happy", "推荐一部好看的电影吧。"),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for seed, (name, (emotion, text)) in enumerate(EXAMPLES.items()):
        wave = speak_user(text, emotion, np.random.default_rng(seed), heldout=True)
        write_wav(FOLDER / f"{name}.wav", torch.from_numpy(wave), SAMPLE_RATE)


if __name__ == "__main__":
    main()
