"""How characters with several readings are read in the words of the dialogues.

espeak-ng knows one reading a character, and a few of those are wrong. It also reads pinyin, so the
characters below are handed to it respelt: "我睡觉了" becomes "我睡 jiao4 了".
"""

from collections.abc import Sequence

PUNCTUATION = "，。？！"

# "character reading": the words (or the character itself) in which it is read so. Where two words
# start at the same place the longer one wins, so a longer word can also be an exception.
_READINGS = {
    # wrong on their own in espeak's dictionary: no tone, or a whole word for one character
    "恭 gong1": "恭", "媒 mei2": "媒", "眷 juan4": "眷", "凌 ling2": "凌", "鹦 ying1": "鹦",
    "唠 lao2": "唠", "粤 yue4": "粤", "咳 ke2": "咳", "晨 chen2": "晨", "绩 ji4": "绩",
    "务 wu4": "务", "嗽 sou4": "嗽", "椎 zhui1": "椎", "涂 tu2": "涂", "驼 tuo2": "驼",
    "爷 ye2": "爷", "哄 hong3": "哄", "曲 qu3": "曲", "茄 qie2": "茄",
    # several readings
    "背 bei1": "背包 背着包", "绷 beng1": "紧绷 绷着", "薄 bo2": "薄弱",
    "别 bie4": "别扭", "差 cha1": "差别 差距 误差 落差", "差 chai1": "开小差 差事 出差",
    "长 zhang3": "长得 学长 长胖 长蛀牙 组长 长大 成长 生长 校长 家长 班长 队长 增长 又长胖",
    "场 chang2": "哭一场 场雨 场病", "冲 chong4": "冲我 好冲",
    "重 chong2": "重新 重置 重设 重复 重启 重拍 重开 重来 重做 重试", "处 chu3": "处理 相处",
    "当 dang4": "当成 当傻 当两天 上当", "倒 dao3": "滑倒 病倒 倒海 摔倒 倒霉 累倒 晕倒",
    "得 dei3": "得带伞 就得下 点得起 还得上 还得接 得减减 得多锻 我得怎么 又得 总得 您得",
    "得 de2": "得了 得分 值得 应得 获得 取得 赢得 难得 得到 得不到 得意 得失 心得 得罪",
    "得 de5": "受得了 觉得了 记得了",
    "的 di2": "的确", "地 di4": "地方 地址 本地 外地 异地 当地 地点 地铁 土地 沾地 地图 场地",
    "调 tiao2": "调整 空调 调了静 调暗 调节 调理 调味",
    "儿 er5": "会儿 哪儿 这儿 那儿 点儿 活儿 们儿",
    "发 fa4": "洗发 头发 理发", "分 fen4": "过分 部分", "更 geng1": "更新",
    "干 gan4": "干什么 干点 干不 没干 干活 干着 再干 干得好 司干得 能干 干了三 干了一天 "
    "不想干 现在干 干啥",
    "行 hang2": "银行 转行 行业 两行 欢这行", "好 hao4": "好奇 爱好 同好", "好 hao3": "好奇怪",
    "喝 he4": "喝彩", "和 huo5": "暖和 软和", "糊 hu2": "炒糊 糊涂", "糊 hu4": "糊弄",
    "欢 huan1": "欢迎 欢乐 欢快 新欢 寡欢", "还 huan2": "退还 还给 钱不还 归还",
    "假 jia4": "放假 暑假 寒假 假期 请假 度假", "教 jiao1": "教我 教教 教教我",
    "嚼 jiao2": "嚼", "角 jue2": "主角 角色 配角", "尽 jin3": "尽管 尽快 尽量",
    "觉 jiao4": "睡觉 一觉 懒觉 着觉 好觉 补觉", "卷 juan4": "试卷 卷子 答卷",
    "落 la4": "丢三落四 落在外", "落 lao4": "落枕", "量 liang2": "商量 量好尺 测量",
    "了 liao3": "了解 不了 受得了 了不起 完没了", "难 nan4": "苦难 灾难",
    "便 pian2": "便宜", "片 pian1": "片子", "强 qiang3": "勉强", "切 qie1": "切菜 切得 切蛋",
    "识 shi2": "意识", "数 shu3": "数羊 羊数了 倒数", "诉 su4": "投诉", "弹 tan2": "弹",
    "吐 tu4": "想吐 吐下泻 呕吐", "为 wei2": "成为 认为 以为 行为 为准 作为",
    "恶 e3": "恶心", "相 xiang4": "相册 相片", "兴 xing1": "兴奋", "宿 xiu3": "一宿",
    "要 yao1": "要求", "乐 yue4": "乐器 音乐 乐谱 乐曲",
    "应 ying4": "回应 反应 应用 答应 应对 就应",
    "着 zhao2": "睡着 睡着了 不着 着急 着凉 找着 没见着 没抢着",
    "只 zhi1": "一只 两只 百只 是只猫 这只 那只 几只", "中 zhong4": "看中 中奖",
    "空 kong4": "没空 空档 空白 有空 空闲 抽空", "转 zhuan4": "团团转 转圈",
    "涨 zhang4": "脑涨", "子 zi3": "电子", "折 zhe1": "折腾",
}  # fmt: skip

_WORDS = sorted(
    (
        (word, word.index(key[0]), key[2:])
        for key, words in _READINGS.items()
        for word in words.split()
    ),
    key=lambda entry: len(entry[0]),
)
# after these 一 counts and keeps its tone: 第一, 唯一, 十一, 周一
_ORDINAL_BEFORE_ONE = "第初十周期万唯统之"


def respell(text: str) -> list[str]:
    """Split `text` into its characters, those of `_READINGS` replaced by their pinyin."""
    units = list(text)
    for word, index, reading in _WORDS:
        start = text.find(word)
        while start >= 0:
            for i in range(start + index, start + len(word)):
                if text[i] == word[index]:
                    units[i] = reading
            start = text.find(word, start + 1)
    return units


def apply_tone_sandhi(units: Sequence[str], tones: Sequence[int]) -> list[str]:
    """Give 不 and 一 the tone they take before the next syllable, which espeak does not.

    Args:
        units: characters, pinyin and punctuation, as from `respell`.
        tones: the tone 1 to 5 (5: neutral) of each unit, 0 for punctuation.
    Returns:
        The units with 不 and 一 respelt where their tone changes.
    """
    units, tones = list(units), [*tones, 0]
    for i in reversed(range(len(units))):
        following = tones[i + 1]
        if units[i] == "不" and following == 4:
            units[i], tones[i] = "bu2", 2
        elif units[i] == "一" and following and (i == 0 or units[i - 1] not in _ORDINAL_BEFORE_ONE):
            # 个 is neutral in 一个 but acts as the fourth tone it comes from
            tones[i] = 2 if following in (4, 5) else 4
            units[i] = f"yi{tones[i]}"
    return units
