"""The hand-written half of the demo corpus: inflection, and which verbs, adjectives, counters and phrases go with which nouns.

Promises that forms agree: tense, politeness and polarity of a predicate come from its arguments, never from chance.
Knows no documents; `documents` puts these pieces together.
"""

from dataclasses import dataclass

# Ending of a godan verb -> its negative stem, masu stem, conditional and te-form.
GODAN = {
    "う": ("わ", "い", "え", "って"),
    "つ": ("た", "ち", "て", "って"),
    "る": ("ら", "り", "れ", "って"),
    "ぶ": ("ば", "び", "べ", "んで"),
    "む": ("ま", "み", "め", "んで"),
    "ぬ": ("な", "に", "ね", "んで"),
    "く": ("か", "き", "け", "いて"),
    "ぐ": ("が", "ぎ", "げ", "いで"),
    "す": ("さ", "し", "せ", "して"),
}
TENSES = ("past", "future", "habit", "now")


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb with whatever precedes it (を食べる, 台所に立つ) in the forms that the sentences use."""

    dictionary: str
    negative: str
    stem: str
    conditional: str
    te: str

    @property
    def ta(self) -> str:
        return self.te[:-1] + ("だ" if self.te[-1] == "で" else "た")

    def predicate(self, tense: str, polite: bool, negated: bool = False) -> str:
        """The form that ends a sentence; `tense` is one of TENSES."""
        if tense == "now" and not negated:
            return self.te + ("います" if polite else "いる")
        past = tense == "past"
        if negated:
            if polite:
                return self.stem + ("ませんでした" if past else "ません")
            return self.negative + ("なかった" if past else "ない")
        if polite:
            return self.stem + ("ました" if past else "ます")
        return self.ta if past else self.dictionary


def verb(text: str) -> Verb:
    """A verb from its dictionary form; a 1 behind it marks the ichidan verbs (食べる1), which the spelling does not tell."""
    if text.endswith("1"):
        body = text[:-2]
        return Verb(text[:-1], body, body, body + "れ", body + "て")
    body, last = text[:-1], text[-1]
    if text.endswith("する"):
        body = text[:-2]
        return Verb(text, body + "し", body + "し", body + "すれ", body + "して")
    negative, stem, conditional, te = GODAN[last]
    return Verb(text, body + negative, body + stem, body + conditional, body + ("って" if text.endswith("行く") else te))


@dataclass(frozen=True, slots=True)
class Adjective:
    """い-adjectives and, where the word was written with な, な-adjectives."""

    stem: str
    is_na: bool

    @property
    def attributive(self) -> str:
        return self.stem + ("な" if self.is_na else "い")

    @property
    def conditional(self) -> str:
        return self.stem + ("なら" if self.is_na else "ければ")

    @property
    def concessive(self) -> str:
        return self.stem + ("でも" if self.is_na else "くても")

    @property
    def te(self) -> str:
        return self.stem + ("で" if self.is_na else "くて")

    def predicate(self, past: bool, style: str, negated: bool = False) -> str:
        if negated:
            body = self.stem + ("では" if self.is_na else "く")
            if style == "polite":
                return body + ("ありませんでした" if past else "ありません")
            return body + ("なかった" if past else "ない")
        if self.is_na:
            return self.stem + copula(past, style)
        return self.stem + ("かった" if past else "い") + ("です" if style == "polite" else "")


def adjective(text: str) -> Adjective:
    return Adjective(text[:-1], text.endswith("な"))


def copula(past: bool, style: str) -> str:
    """だ, です or である: `style` is plain, polite or written."""
    return {"plain": ("だ", "だった"), "polite": ("です", "でした"), "written": ("である", "であった")}[style][past]


@dataclass(frozen=True)
class Kind:
    """What can be said about the nouns of one kind."""

    genus: str
    exists: str
    counters: tuple[str, ...]
    done: tuple[Verb, ...]
    """What people do to it, with the particle."""
    does: tuple[Verb, ...]
    """What it does by itself, with が."""
    looks: tuple[Adjective, ...]


def _kind(genus: str, exists: str, counters: str, done: str, does: str, looks: str) -> Kind:
    verbs, own, adjectives = (text.split() for text in (done, does, looks))
    return Kind(
        genus, exists, tuple(counters.split()), tuple(map(verb, verbs)), tuple(map(verb, own)), tuple(map(adjective, adjectives))
    )


KINDS = {
    "food": _kind(
        "食べ物",
        "ある",
        "個 皿 種類",
        "を食べる1 を味わう を作る を頼む を分ける1 を温める1 を買う を運ぶ を選ぶ を出す を残す を包む",
        "が並ぶ が届く が余る が冷める1 が売れる1 が出る1",
        "美味しい 甘い 辛い 温かい 柔らかい 冷たい 珍しい 濃い 新鮮な 素朴な 安い 豪華な",
    ),
    "tool": _kind(
        "道具",
        "ある",
        "個 点 種類",
        "を使う を買う を直す を並べる1 を運ぶ を作る を選ぶ を借りる1 を飾る を磨く を贈る を見せる1 を集める1",
        "が壊れる1 が届く が見付かる が役に立つ が売れる1 が残る",
        "新しい 古い 重い 軽い 大きい 小さい 高い 安い 便利な 丈夫な 立派な 貴重な 美しい",
    ),
    "clothing": _kind(
        "衣類",
        "ある",
        "着 点",
        "を選ぶ を縫う を洗う を畳む を贈る を借りる1 を身に着ける1 を着替える1 を干す",
        "が乾く が汚れる1 が似合う が売れる1 が流行する",
        "軽い 厚い 薄い 白い 黒い 新しい 派手な 地味な 暖かい 上品な",
    ),
    "vehicle": _kind(
        "乗り物",
        "ある",
        "台",
        "に乗る を待つ を降りる1 を動かす を眺める1 を直す を借りる1 を追う を止める1",
        "が走る が止まる が遅れる1 が着く が動く が通る",
        "速い 遅い 新しい 古い 広い 大きい 小さい 静かな 便利な 安全な",
    ),
    "money": _kind(
        "お金",
        "ある",
        "種類",
        "を払う を集める1 を計算する を減らす を増やす を受け取る を使う を貯める1",
        "が増える1 が減る が足りる1 が上がる が下がる",
        "高い 安い 多い 少ない 十分な 必要な 正確な",
    ),
    "animal": _kind(
        "生き物",
        "いる",
        "匹 頭 種類",
        "を飼う を見付ける1 を観察する を追う を育てる1 を撮る を助ける1 を放す を探す",
        "が現れる1 が動く が眠る が集まる が逃げる1 が隠れる1 が増える1 が育つ が近付く",
        "大きい 小さい 賢い 素早い 可愛い 珍しい 白い 黒い 臆病な 元気な",
    ),
    "plant": _kind(
        "植物",
        "ある",
        "本 株 種類",
        "を植える1 を育てる1 を眺める1 を摘む を切る を飾る を観察する を写生する",
        "が育つ が茂る が枯れる1 が揺れる1 が伸びる1 が芽を出す が根を張る",
        "美しい 青い 赤い 白い 小さい 高い 強い 弱い 珍しい 見事な",
    ),
    "nature": _kind(
        "物質や現象",
        "ある",
        "種類",
        "を調べる1 を観察する を集める1 を測る を使う を探す を撮る を分析する",
        "が増える1 が減る が残る が広がる が動く が輝く が変わる",
        "美しい 白い 赤い 黒い 重い 軽い 硬い 柔らかい 豊富な 貴重な 純粋な",
    ),
    "land": _kind(
        "地形",
        "ある",
        "か所",
        "を訪れる1 を歩く を目指す を眺める1 を調べる1 を守る を越える1 を描く",
        "が広がる が続く が見える1 が変わる が現れる1",
        "広い 深い 高い 遠い 美しい 険しい 静かな 豊かな 荒い 雄大な",
    ),
    "place": _kind(
        "場所",
        "ある",
        "か所",
        "に行く に着く に集まる に戻る に寄る に向かう を訪れる1 を見学する を掃除する を建てる1",
        "が開く が閉まる が混む が見える1 が完成する",
        "広い 狭い 静かな 新しい 古い 近い 遠い 明るい 暗い 賑やかな 綺麗な",
    ),
    "person": _kind(
        "人",
        "いる",
        "人",
        "に会う に相談する に尋ねる1 に頼む を訪ねる1 を手伝う を助ける1 を励ます を待つ を招く に教わる",
        "が集まる が訪れる1 が笑う が話す が頷く が手伝う が並ぶ",
        "若い 優しい 厳しい 忙しい 親切な 有名な 熱心な 真面目な 明るい 陽気な",
    ),
    "group": _kind(
        "団体",
        "ある",
        "種類",
        "に参加する に入る に相談する を作る を支える1 を訪ねる1 に加わる",
        "が動く が集まる が増える1 が発表する が協力する",
        "大きい 小さい 新しい 古い 有名な 活発な 強い",
    ),
    "matter": _kind(
        "言葉",
        "ある",
        "種類",
        "について考える1 について話す について調べる1 について学ぶ について語る について書く "
        "を重視する を理解する を説明する を覚える1 を忘れる1 に触れる1 に興味を持つ に悩む",
        "が変わる が広まる が話題になる が問題になる が続く が生まれる1 が注目を集める1",
        "難しい 面白い 新しい 古い 大切な 重要な 複雑な 有名な 必要な 単純な 特別な 独特な",
    ),
    "action": _kind(
        "活動",
        "ある",
        "回",
        "を始める1 を続ける1 を止める1 を行う を急ぐ を助ける1 を繰り返す を見直す を任せる1 を楽しむ",
        "が始まる が続く が終わる が進む が遅れる1 が行われる1",
        "難しい 早い 遅い 大変な 順調な 必要な 困難な 簡単な 丁寧な",
    ),
}
# Kinds of the nouns that a document can be about as things one can see.
THINGS = ("food", "tool", "clothing", "vehicle", "money", "animal", "plant", "nature", "land")

# Topic -> what its people are and do; each phrase is one fixed expression.
_TOPICS = {
    "料理": (
        "料理人 店長 農家",
        "台所に立つ 火を弱める1 味を確かめる1 皿に盛る 塩を加える1",
        "水を足す 湯を沸かす 野菜を刻む 席に着く",
    ),
    "交通": (
        "運転手 駅員 旅人",
        "切符を買う 駅に着く 窓の外を眺める1 地図を広げる1 橋を渡る",
        "列に並ぶ 荷物を預ける1 時刻を調べる1",
    ),
    "スポーツ": (
        "選手 監督 審判",
        "試合に勝つ 試合に負ける1 練習を続ける1 記録を破る",
        "声を出す 汗を流す 全力で走る 作戦を立てる1",
    ),
    "芸術": (
        "画家 作家 歌手",
        "舞台に立つ 絵を描く 拍手を送る 曲を選ぶ 筆を取る",
        "展示を見る1 歌を歌う 弟子を育てる1 楽器を弾く",
    ),
    "経済": (
        "社長 部長 商人",
        "契約を結ぶ 会議を開く 値段を下げる1 利益を上げる1",
        "在庫を減らす 客を増やす 計画を見直す 社員を雇う",
    ),
    "教育": ("教師 生徒 校長", "宿題を出す 問題を解く 本を読む 黒板に書く 質問に答える1", "試験を受ける1 発音を直す 授業を休む"),
    "科学": (
        "学者 技師 助手",
        "仮説を立てる1 実験を繰り返す 値を測る 論文を書く",
        "装置を組み立てる1 結果を確かめる1 原因を探る 温度を上げる1",
    ),
    "暮らし": (
        "主婦 大工 会社員",
        "部屋を片付ける1 窓を開ける1 洗濯物を干す 朝早く起きる1",
        "家族を起こす 手紙を出す 床を拭く 庭を掃く",
    ),
    "報道": (
        "記者 編集者 司会者",
        "記事を書く 写真を撮る 番組を見る1 話を聞く 原稿を読む",
        "事実を確かめる1 現場に向かう 意見を求める1",
    ),
    "余暇": (
        "会社員 学生 旅人",
        "仲間を誘う 海で泳ぐ 山に登る 景色を楽しむ 予定を立てる1",
        "切手を集める1 温泉に入る 芝生に座る",
    ),
    "動物": ("獣医 飼育員 猟師", "餌をやる 足跡を追う 巣を探す 息を潜める1 記録を付ける1", "森に入る 小屋を建てる1 鳴き声を聞く"),
    "植物": ("農家 庭師 学者", "種を蒔く 水をやる 土を耕す 枝を切る 日陰に移す", "落ち葉を集める1 苗を植える1 花の名前を調べる1"),
    "自然": ("学者 漁師 写真家", "川を渡る 空を見上げる1 地図を描く 石を拾う 岸に立つ", "山を下りる1 雲を眺める1 深さを測る"),
}
TOPICS = {
    topic: (tuple(roles.split()), tuple(verb(phrase) for phrase in " ".join(phrases).split()))
    for topic, (roles, *phrases) in _TOPICS.items()
}

# Season -> months, how it feels, what happens then.
_SEASONS = {
    "春": ("3 4 5", "暖かく 穏やかで", "桜が咲く 雪が解ける1 暖かい風が吹く 新しい学期が始まる 花見の客が増える1 若葉が茂る"),
    "夏": ("6 7 8", "暑く 蒸し暑く", "日差しが強まる 夕立が降る 蝉が鳴く 花火が上がる 海辺に人が集まる 気温が上がる"),
    "秋": ("9 10 11", "涼しく 爽やかで", "山が赤く染まる 稲が実る 虫が鳴く 涼しい風が吹く 祭りの準備が進む 日が短くなる"),
    "冬": ("12 1 2", "寒く 厳しく", "雪が積もる 霜が降りる1 冷たい風が吹く 湖が凍る 空気が乾く 気温が下がる"),
}
SEASONS = {
    season: (tuple(months.split()), tuple(feels.split()), tuple(map(verb, events.split())))
    for season, (months, feels, events) in _SEASONS.items()
}

# Time adverbs by the tense that must follow.
WHEN = {
    "past": ("昨日", "先週", "先月", "去年", "数年前", "その日", "翌日", "以前", "昔"),
    "future": ("明日", "来週", "来月", "来年", "まもなく", "近いうちに", "次の休みに"),
    "habit": ("毎日", "毎朝", "いつも", "普段", "ときどき", "週末になると", "よく"),
    "now": ("今", "現在", "最近", "このところ", "相変わらず"),
}
MANNERS = (
    "ゆっくり",
    "静かに",
    "丁寧に",
    "急いで",
    "慎重に",
    "楽しそうに",
    "熱心に",
    "一人で",
    "みんなで",
    "すぐに",
    "何度も",
    "黙って",
)
DEGREES = ("とても", "かなり", "非常に", "少し", "本当に", "意外に")
NEGATED_DEGREES = ("あまり", "それほど", "少しも", "決して", "まったく")
GRADUALLY = ("少しずつ", "次々と", "やがて", "次第に", "ゆっくりと", "急に")
CONNECTIVES = ("そして", "また", "さらに", "その後", "それから", "ところで", "そのため")
EXISTENCE = {"ある": verb("ある"), "いる": verb("いる1")}
GIVING = (verb("を渡す"), verb("を見せる1"), verb("を贈る"))
RECEIVING = (verb("をもらう"), verb("を借りる1"), verb("を受け取る"))
SAYING = (verb("言う"), verb("話す"), verb("語る"), verb("笑う"), verb("答える1"))
