"""Which column of a table is which: as options say, or by the names that are common."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from ppt_core.errors import DataError

Role = Literal["user", "item", "time", "rating", "event"]
ROLES: tuple[Role, ...] = get_args(Role)
ROWS = ("user", "item", "time")
"""The roles that no two columns may claim; of ratings and events the rest of a table can do without."""

SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}

# Names in three ranks: one of a later rank counts only where there is none of an earlier one.
_NAMES: dict[Role, tuple[str, str, str]] = {
    "user": (
        "user_id user 用户 用户id 用户编号",
        "uid usr usr_id customer_id customer cust_id client_id client visitor_id visitor member_id member reviewer_id "
        "reviewer account_id account person_id profile_id player_id player buyer_id shopper_id subscriber_id reader_id "
        "listener_id viewer_id user_pseudo_id user_name user_idx user_number "
        "customer_number household_id household_key device_id msno kunde kunde_id kundennummer benutzer benutzer_id "
        "usuario cliente utilisateur review_profilename",
        "session_id session cookie_id user_session email user_email",
    ),
    "item": (
        "item_id item movie_id 商品 商品id 商品编号 物品 物品id 电影 电影id",
        "iid product_id product asin parent_asin sku sku_id stock_code article_id article book_id book isbn anime_id "
        "video_id video song_id song track_id track artist_id artist game_id game app_id app news_id business_id "
        "article_number product_number item_number venue_id poi_id place_id recipe_id ad_id content_id show_id "
        "movie film film_id aid goods_id offer_id listing_id job_id course_id beer_id beer_beerid post_id music_id "
        "item_idx artikel artikel_id artikelnummer produkt produkt_id produit producto",
        "item_name product_name product_title game_title movie_title book_title artist_name track_name title",
    ),
    "time": (
        "timestamp time 时间 时间戳",
        "ts event_time event_timestamp created_at created datetime date_time unix_time unix_timestamp "
        "unix_review_time review_time time_ms timestamp_ms epoch order_date purchase_date invoice_date "
        "transaction_date transaction_dt t_dat order_time ordered_at purchase_time purchased_at transaction_time "
        "rating_timestamp rating_time visited_at watched_at played_at rated_at zeit zeitstempel bestelldatum",
        "date event_date review_date day updated_at date_added 日期 datum fecha",
    ),
    "rating": (
        "rating 评分",
        "score star star_rating label overall book_rating rate preference grade review_overall 得分 bewertung",
        "weight count play play_count listen listen_count hours_played quantity qty watch_ratio click_count value",
    ),
    "event": (
        "event event_type event_name",
        "action action_type behavior behaviour behavior_type behavior_name interaction interaction_type activity",
        "type",
    ),
}


def plain_name(name: str) -> str:
    """A name without case, spaces, hyphens, underscores, a RecBole type such as ``:token``, and a plural's s."""
    plain = re.sub(r":.*|[\W_]", "", name).lower()
    return plain[:-1] if plain.endswith("s") and len(plain) > 3 else plain


_RANKS: Mapping[Role, tuple[frozenset[str], ...]] = MappingProxyType(
    {role: tuple(frozenset(map(plain_name, names.split())) for names in ranks) for role, ranks in _NAMES.items()}
)
ADVICE = "name them with user_column= and item_column=, or number them from 1"


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a source of ratings is to be read. What is None is found out, or refused where it could be two things.

    Attributes:
        user_column: name of the column of users, or its position from 1.
        item_column: likewise.
        time_column: likewise; a source without one has no times.
        rating_column: likewise; what ``min_rating`` compares.
        event_column: likewise; what ``events`` chooses from.
        separator: one character, ``::``, or a word: tab, comma, semicolon, pipe, space.
        header: whether the first line of a text holds the names of its columns.
        time_format: how dates are written, as ``strptime`` takes it (``%d/%m/%Y``).
        members: which members of an archive to read: names or patterns such as ``part*.csv``.
        min_rating: rows with a lower rating, or none, do not count.
        events: rows with another event do not count.
        skip_bad_rows: leave out rows that cannot be read, up to ``max_bad_rows``.
        max_bad_rows: the largest share of such rows, 0 to 1.

    Raises ValueError for a value that is out of its range.
    """

    user_column: str | int | None = None
    item_column: str | int | None = None
    time_column: str | int | None = None
    rating_column: str | int | None = None
    event_column: str | int | None = None
    separator: str | None = None
    header: bool | None = None
    time_format: str | None = None
    members: tuple[str, ...] = ()
    min_rating: float | None = None
    events: tuple[str, ...] = ()
    skip_bad_rows: bool = False
    max_bad_rows: float = 0.1

    def __post_init__(self) -> None:
        if self.separator is not None:
            separator = SEPARATORS.get(self.separator, self.separator)
            if separator != "::" and len(separator.encode()) != 1:
                raise ValueError(
                    f"separator is {self.separator!r}; it must be one character, '::', or one of "
                    f"{', '.join(word for word in SEPARATORS if word.isalpha())}"
                )
            object.__setattr__(self, "separator", separator)
        if not 0 <= self.max_bad_rows <= 1:
            raise ValueError(f"max_bad_rows is {self.max_bad_rows}; it must be a share between 0 and 1")
        for name in ("members", "events"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(map(str, value or ())))

    def column(self, role: Role) -> str | int | None:
        """The name or the position of a role's column, if it was said; a position is an integer."""
        value: str | int | None = getattr(self, f"{role}_column")
        return value

    def said(self) -> Iterator[Role]:
        """The roles whose column was said."""
        return (role for role in ROLES if self.column(role) is not None)

    def wants(self, role: Role) -> bool:
        """Whether a source without this role's column is of no use."""
        return (
            role in ("user", "item")
            or self.column(role) is not None
            or (role == "rating" and self.min_rating is not None)
            or (role == "event" and bool(self.events))
        )


def find_columns(source: object, names: Sequence[str], options: ReadOptions) -> dict[Role, int]:
    """Return the position from 0 of each role's column in a table with a header; of user and item at least.

    Returns nothing at all if no name is known and none was said. Raises `DataError` if a wanted column is not there,
    or if two could be meant.
    """
    found: dict[Role, int] = {}
    for role in ROLES:
        said = options.column(role)
        if said is not None:
            found[role] = position_of(source, role, said, names)
    for role in ROLES:
        if role not in found and (position := _by_name(source, role, names, set(found.values()), options)) is not None:
            found[role] = position
    if not any(role in found for role in ("user", "item")):
        return {}
    for role in ROLES:
        if role not in found and options.wants(role):
            raise DataError(
                f"{source} has no {role} column by a known name (its columns: {_listed(names)}); "
                f"name it with {role}_column=, or number it from 1"
            )
    return found


def position_of(source: object, role: Role, said: str | int, names: Sequence[str]) -> int:
    """The position from 0 of a column that was named, or numbered from 1. Raises `DataError` if it is not there."""
    stripped = [name.strip() for name in names]
    if isinstance(said, str) and said in stripped:
        return stripped.index(said)
    if str(said).isascii() and str(said).isdigit():
        if not 1 <= int(said) <= len(names):
            raise DataError(f"{role}_column is {said}, and {source} has {len(names)} columns; they count from 1")
        return int(said) - 1
    close = [place for place, name in enumerate(stripped) if plain_name(name) == plain_name(str(said))]
    if len(close) != 1:
        raise DataError(f"{source} has no column {said!r} for {role}_column= (its columns: {_listed(names)})")
    return close[0]


def _by_name(source: object, role: Role, names: Sequence[str], taken: set[int], options: ReadOptions) -> int | None:
    for rank in _RANKS[role]:
        positions = [place for place, name in enumerate(names) if place not in taken and plain_name(name) in rank]
        if len(positions) > 1 and (role in ROWS or options.wants(role)):
            several = " and ".join(names[place].strip() for place in positions)
            raise DataError(f"{source} has more than one {role} column ({several}); say which one with {role}_column=")
        if positions:
            return positions[0] if len(positions) == 1 else None
    return None


def _listed(names: Sequence[Any]) -> str:
    text = ", ".join(str(name).strip() for name in names)
    return repr(text if len(text) <= 200 else text[:200] + "...")


def names_a_column(names: Sequence[str], options: ReadOptions) -> bool:
    """Whether a line holds the name of a user or an item column, a known one or one that an option gives."""
    plain = [plain_name(name) for name in names]
    known = any(name in rank for role in ("user", "item") for rank in _RANKS[role] for name in plain)
    said = (options.column(role) for role in options.said())
    return known or any(plain_name(str(each)) in plain for each in said if not str(each).isdigit())


def known_names(role: Role) -> tuple[str, ...]:
    """The plain names (`plain_name`) that mean a role wherever they stand, the most usual first."""
    return tuple(map(plain_name, " ".join(_NAMES[role][:2]).split()))
