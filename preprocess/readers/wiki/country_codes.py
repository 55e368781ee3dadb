"""Names of countries by the codes that templates take: {{JPN}}, {{flag|JPN}}. Codes of ISO 3166, the IOC and FIFA,
and of former states."""

# A code that two lists use for different countries, such as ANT and BRN, is ISO's.
_CODES = """
    ABW,ARU アルバ|AFG アフガニスタン|AGO,ANG アンゴラ|AIA アンギラ|ALA オーランド諸島|ALB アルバニア|AND アンドラ
    ANT,AHO オランダ領アンティル
    ARE,UAE アラブ首長国連邦|ARG アルゼンチン|ARM アルメニア|ASM,ASA アメリカ領サモア|ATA 南極|ATG アンティグア・バーブーダ
    AUS オーストラリア
    AUT オーストリア|AZE アゼルバイジャン|BDI ブルンジ|BEL ベルギー|BEN ベナン|BES ボネール|BFA,BUR ブルキナファソ
    BGD,BAN バングラデシュ
    BGR,BUL ブルガリア|BHR バーレーン|BHS,BAH バハマ|BIH ボスニア・ヘルツェゴビナ|BLM サン・バルテルミー島|BLR ベラルーシ
    BLZ,BIZ ベリーズ|BMU,BER バミューダ諸島|BOL ボリビア|BRA ブラジル|BRB,BAR バルバドス|BRN,BRU ブルネイ|BTN,BHU ブータン
    BWA,BOT ボツワナ|CAF,CTA 中央アフリカ共和国|CAN カナダ|CCK ココス諸島|CHE,SUI スイス|CHL,CHI チリ|CHN,PRC 中華人民共和国
    CIV コートジボワール|CMR カメルーン|COD コンゴ民主共和国|COG,CGO コンゴ共和国|COK クック諸島|COL コロンビア|COM コモロ
    CPV カーボベルデ|CRI,CRC コスタリカ|CUB キューバ|CUW キュラソー|CXR クリスマス島|CYM,CAY ケイマン諸島|CYP キプロス|CZE チェコ
    DEU,GER ドイツ|DJI ジブチ|DMA ドミニカ国|DNK,DEN デンマーク|DOM ドミニカ共和国|DZA,ALG アルジェリア|ECU エクアドル|EGY エジプト
    ERI エリトリア|ESH 西サハラ|ESP スペイン|EST エストニア|ETH エチオピア|FIN フィンランド|FJI,FIJ フィジー|FLK フォークランド諸島
    FRA フランス|FRO フェロー諸島|FSM ミクロネシア連邦|GAB ガボン|GBR,UK,GBR2 イギリス|GEO グルジア|GGY ガーンジー|GHA ガーナ
    GIB ジブラルタル|GIN,GUI ギニア|GLP グアドループ|GMB,GAM ガンビア|GNB,GBS ギニアビサウ|GNQ,EQG,GEQ 赤道ギニア|GRC,GRE ギリシャ
    GRD,GRN グレナダ|GRL グリーンランド|GTM,GUA グアテマラ|GUF フランス領ギアナ|GUM グアム|GUY ガイアナ|HKG 香港|HND,HON ホンジュラス
    HRV,CRO クロアチア|HTI,HAI ハイチ|HUN ハンガリー|IDN,INA インドネシア|IMN マン島|IND インド|IOT イギリス領インド洋地域
    IRL アイルランド
    IRN,IRI イラン|IRQ イラク|ISL アイスランド|ISR イスラエル|ITA イタリア|JAM ジャマイカ|JEY ジャージー|JOR ヨルダン|JPN 日本
    KAZ カザフスタン|KEN ケニア|KGZ キルギス|KHM,CAM カンボジア|KIR キリバス|KNA,SKN セントクリストファー・ネイビス|KOR,ROK 大韓民国
    KWT,KUW クウェート|LAO ラオス|LBN,LIB レバノン|LBR リベリア|LBY,LBA リビア|LCA セントルシア|LIE リヒテンシュタイン
    LKA,SRI スリランカ
    LSO,LES レソト|LTU リトアニア|LUX ルクセンブルク|LVA,LAT ラトビア|MAC マカオ|MAF サン・マルタン|MAR モロッコ|MCO,MON モナコ
    MDA モルドバ|MDG,MAD マダガスカル|MDV モルディブ|MEX メキシコ|MHL マーシャル諸島|MKD 北マケドニア|MLI マリ共和国|MLT マルタ
    MMR,MYA ミャンマー|MNE モンテネグロ|MNG,MGL モンゴル国|MNP 北マリアナ諸島|MOZ モザンビーク|MRT,MTN モーリタニア|MSR モントセラト
    MTQ マルティニーク|MUS,MRI モーリシャス|MWI,MAW マラウイ|MYS,MAS マレーシア|MYT マヨット|NAM ナミビア|NCL ニューカレドニア
    NER,NIG ニジェール|NFK ノーフォーク島|NGA,NGR ナイジェリア|NIC,NCA ニカラグア|NIU ニウエ|NLD,NED,HOL オランダ|NOR ノルウェー
    NPL,NEP ネパール|NRU ナウル|NZL ニュージーランド|OMN,OMA オマーン|PAK パキスタン|PAN パナマ|PCN ピトケアン諸島|PER ペルー
    PHL,PHI フィリピン|PLW パラオ|PNG パプアニューギニア|POL ポーランド|PRI,PUR プエルトリコ|PRK,DPRK 朝鮮民主主義人民共和国
    PRT,POR ポルトガル|PRY,PAR パラグアイ|PSE,PLE パレスチナ国|PYF,TAH フランス領ポリネシア|QAT カタール|REU レユニオン
    ROU,ROM ルーマニア
    RUS ロシア|RWA ルワンダ|SAU,KSA サウジアラビア|SDN,SUD スーダン|SEN セネガル|SGP,SIN シンガポール|SHN セントヘレナ
    SLB,SOL ソロモン諸島|SLE シエラレオネ|SLV,ESA エルサルバドル|SMR サンマリノ|SOM ソマリア|SPM サンピエール島・ミクロン島|SRB セルビア
    SSD 南スーダン|STP サントメ・プリンシペ|SUR スリナム|SVK スロバキア|SVN,SLO スロベニア|SWE スウェーデン|SWZ エスワティニ
    SXM シント・マールテン|SYC,SEY セーシェル|SYR,SYR1 シリア|TCA タークス・カイコス諸島|TCD,CHA チャド|TGO,TOG トーゴ|THA タイ
    TJK タジキスタン|TKL トケラウ|TKM トルクメニスタン|TLS 東ティモール|TON,TGA トンガ|TTO,TRI トリニダード・トバゴ|TUN チュニジア
    TUR トルコ|TUV ツバル|TWN,ROC 中華民国|TPE チャイニーズタイペイ|TZA,TAN タンザニア|UGA ウガンダ|UKR ウクライナ|URY,URU ウルグアイ
    USA,US アメリカ合衆国|UZB ウズベキスタン|VAT バチカン|VCT,VIN セントビンセント・グレナディーン|VEN ベネズエラ
    VGB,IVB イギリス領ヴァージン諸島
    VIR,ISV アメリカ領ヴァージン諸島|VNM,VIE ベトナム|VUT,VAN バヌアツ|WLF ウォリス・フツナ|WSM,SAM サモア|YEM イエメン
    ZAF,RSA 南アフリカ共和国|ZMB,ZAM ザンビア|ZWE,ZIM ジンバブエ|XKX,KOS,KVX コソボ|ENG イングランド|SCO スコットランド|WAL ウェールズ
    NIR 北アイルランド|BIR ミャンマー|MNR 北マリアナ諸島|EU,EUR 欧州連合|UN,UNO 国際連合|SUN,URS,SSR,USSR ソビエト連邦
    GDR,DDR 東ドイツ|FRG,BRD 西ドイツ
    YUG ユーゴスラビア|SCG セルビア・モンテネグロ|TCH,CSK,CSHH チェコスロバキア|ZAR,ZAI ザイール|HKG1959 香港|EUN 独立国家共同体
    ROT 難民選手団
"""
COUNTRY_NAMES: dict[str, str] = {
    code: name
    for entry in _CODES.replace("\n", "|").split("|")
    if entry.strip()
    for codes, name in [entry.split()]
    for code in codes.split(",")
}
"""Name in Japanese by code in capitals."""
