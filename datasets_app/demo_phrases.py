"""The words that demo tickets are made of: an invented cloud company, its services and how customers talk of them.

In English an action is (base form, -ing form); in Russian it is an infinitive, a thing a singular nominative.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Speech:
    """How customers speak of one service in one language."""

    names: tuple[str, ...]
    actions: tuple[str, ...]
    things: tuple[str, ...]
    requests: tuple[str, ...]


ENGLISH: Final[dict[str, Speech]] = {
    "Cloud IAM": Speech(
        names=("Cloud IAM", "the IAM console", "IAM"),
        actions=(
            "reset the password|resetting the password", "log in with SSO|logging in with SSO",
            "turn on two-factor login|turning on two-factor login", "assign a role|assigning a role",
            "invite a colleague|inviting a colleague", "rotate an access key|rotating an access key",
        ),
        things=("single sign-on", "the login page", "two-factor login", "the role editor"),
        requests=(
            "add a colleague to the admins group", "create a service account", "remove a user who left us",
            "give read access to our auditor",
        ),
    ),
    "Billing": Speech(
        names=("Billing", "the billing page", "billing"),
        actions=(
            "pay the invoice by card|paying the invoice by card", "download the invoice|downloading the invoice",
            "change the VAT number|changing the VAT number", "apply a promo code|applying a promo code",
            "update the payment card|updating the payment card", "see this month's costs|opening this month's costs",
        ),
        things=("the payment form", "the invoice page", "the cost report", "card payment"),
        requests=(
            "switch us to yearly payment", "refund the double charge", "put our new address on the invoices",
            "send the closing documents for last month",
        ),
    ),
    "Object Storage": Speech(
        names=("Object Storage", "the storage console", "S3 storage"),
        actions=(
            "upload a file to the bucket|uploading a file to the bucket", "delete a bucket|deleting a bucket",
            "open a presigned link|opening a presigned link", "restore a deleted object|restoring a deleted object",
            "set a lifecycle rule|setting a lifecycle rule",
            "list the objects in a bucket|listing the objects in a bucket",
        ),
        things=("the bucket list", "file upload", "our backup bucket", "the S3 endpoint"),
        requests=(
            "raise our bucket quota", "enable versioning on our bucket", "move a bucket to the EU region",
            "make the media bucket public",
        ),
    ),
    "Database": Speech(
        names=("Database", "the database console", "Postgres"),
        actions=(
            "connect to Postgres|connecting to Postgres", "restore a database backup|restoring a database backup",
            "create a read replica|creating a read replica",
            "install a Postgres extension|installing a Postgres extension",
            "run a migration|running a migration", "export a table|exporting a table",
        ),
        things=("the Postgres primary", "the read replica", "the MySQL cluster", "our SQL query"),
        requests=(
            "upgrade our Postgres to version 17", "add a replica to our database", "extend the database disk",
            "raise the connection limit of our database",
        ),
    ),
    "Kubernetes": Speech(
        names=("Kubernetes", "the k8s console", "k8s"),
        actions=(
            "deploy a pod|deploying a pod", "scale the node group|scaling the node group",
            "upgrade the cluster|upgrading the cluster", "read the pod logs|reading the pod logs",
            "install a Helm chart|installing a Helm chart", "mount a volume in a pod|mounting a volume in a pod",
        ),
        things=("the node group", "the cluster API", "the ingress", "our cluster"),
        requests=(
            "add two nodes to our cluster", "upgrade our cluster to 1.33", "enable the autoscaler for our nodes",
            "create a GPU node group",
        ),
    ),
    "VPN": Speech(
        names=("VPN", "the VPN console"),
        actions=(
            "connect to the VPN|connecting to the VPN", "bring up the IPsec tunnel|bringing up the IPsec tunnel",
            "import the VPN profile|importing the VPN profile", "reach the office network|reaching the office network",
            "renew the VPN certificate|renewing the VPN certificate",
            "add a route to the tunnel|adding a route to the tunnel",
        ),
        things=("the VPN tunnel", "the IPsec link to our office", "the VPN client", "the office tunnel"),
        requests=(
            "open a second tunnel to our new office", "issue VPN profiles for three contractors",
            "change the peer IP of our tunnel", "allow port 8443 in the tunnel",
        ),
    ),
}  # fmt: skip

RUSSIAN: Final[dict[str, Speech]] = {
    "Cloud IAM": Speech(
        names=("Cloud IAM", "IAM"),
        actions=("сбросить пароль", "войти через SSO", "назначить роль", "включить двухфакторный вход"),
        things=("вход через SSO", "страница входа"),
        requests=("добавить коллегу в админы", "удалить уволенного"),
    ),
    "Billing": Speech(
        names=("Billing", "биллинг"),
        actions=("оплатить счёт", "скачать счёт", "сменить карту", "применить промокод"),
        things=("оплата картой", "страница счетов"),
        requests=("вернуть двойной платёж", "прислать акт за месяц"),
    ),
    "Object Storage": Speech(
        names=("Object Storage", "S3"),
        actions=("загрузить файл в бакет", "удалить бакет", "открыть ссылку на файл в S3", "вернуть файл в бакет"),
        things=("загрузка в бакет", "хранилище S3"),
        requests=("увеличить квоту бакета", "включить версии в бакете"),
    ),
    "Database": Speech(
        names=("Database", "Postgres"),
        actions=("подключиться к базе", "восстановить бэкап базы", "создать реплику", "сделать дамп базы"),
        things=("база Postgres", "реплика базы"),
        requests=("обновить Postgres до 17", "расширить диск базы"),
    ),
    "Kubernetes": Speech(
        names=("Kubernetes", "k8s"),
        actions=("запустить под", "обновить кластер", "добавить ноду", "прочитать логи пода"),
        things=("кластер k8s", "нода кластера"),
        requests=("добавить две ноды", "включить автоскейлер"),
    ),
    "VPN": Speech(
        names=("VPN",),
        actions=("подключиться к VPN", "поднять туннель", "обновить профиль VPN", "зайти в сеть офиса"),
        things=("туннель VPN", "клиент VPN"),
        requests=("открыть второй туннель", "выдать профиль VPN"),
    ),
}  # fmt: skip

# Ways to say what kind of ticket it is. {do}, {doing}, {thing} and {request} come from the service's speech.
ENGLISH_CORES: Final[dict[str, tuple[str, ...]]] = {
    "Incident": (
        "{thing} is down", "{thing} has been down for {minutes} minutes", "complete outage: {thing} is not responding",
        "outage since this morning: {thing}", "nobody can use {thing}, it is down",
    ),
    "Bug": (
        "can't {do}", "I cannot {do}, error {code}", "{doing} fails with error {code}", "{doing} does not work",
        "I get an error when I try to {do}", "unable to {do} since the update",
    ),
    "Performance": (
        "{thing} is very slow", "{thing} takes {minutes} seconds to respond", "{doing} is extremely slow",
        "{thing} has become sluggish", "{doing} takes ages",
    ),
    "Request": (
        "please {request}", "could you please {request}?", "could you {request}?", "we need you to {request}",
    ),
    "Question": (
        "how do I {do}?", "is it possible to {do} with the API?", "where is it described how to {do}?",
        "what is the right way to {do}?", "how can we {do} from the command line?",
    ),
}  # fmt: skip

RUSSIAN_CORES: Final[dict[str, tuple[str, ...]]] = {
    "Incident": ("авария, не работает {thing}", "авария: {thing}"),
    "Bug": ("не могу {do}", "ошибка {code}, не могу {do}"),
    "Performance": ("тормозит {thing}", "сильно тормозит {thing}"),
    "Request": ("прошу {request}", "просьба {request}"),
    "Question": ("как {do}?", "подскажите, как {do}?"),
}

# How urgent a ticket of each kind is when it does not say, and what it may say to be something else.
USUAL_URGENCY: Final = {
    "Incident": "Critical", "Bug": "High", "Performance": "Medium", "Request": "Low", "Question": "Low",
}  # fmt: skip
OTHER_URGENCIES: Final[dict[str, tuple[str, ...]]] = {
    "Incident": ("High",), "Bug": ("Critical", "Medium"), "Performance": ("High", "Low"),
    "Request": ("High", "Medium"), "Question": ("Medium",),
}  # fmt: skip
# Somebody in trouble speaks of the damage, somebody with a wish of the date; each level has its catchwords.
TROUBLE: Final = frozenset({"Incident", "Bug", "Performance"})
ENGLISH_TROUBLE_CUES: Final[dict[str, tuple[str, ...]]] = {
    "Critical": ("production is down", "all customers are affected"),
    "High": ("this is urgent", "urgent, the team is blocked"),
    "Medium": ("there is a workaround", "we have a workaround for now"),
    "Low": ("no rush", "there is no hurry"),
}
ENGLISH_WISH_CUES: Final[dict[str, tuple[str, ...]]] = {
    "High": ("this is urgent", "urgent, the deadline is tonight"),
    "Medium": ("please by Friday", "we need it this week"),
    "Low": ("no rush", "there is no hurry"),
}
RUSSIAN_TROUBLE_CUES: Final[dict[str, tuple[str, ...]]] = {
    "Critical": ("прод лежит", "прод лежит у всех"),
    "High": ("срочно", "срочно, всё стоит"),
    "Medium": ("пока терпимо", "терпимо"),
    "Low": ("не горит", "не к спеху"),
}
RUSSIAN_WISH_CUES: Final[dict[str, tuple[str, ...]]] = {
    "High": ("срочно", "срочно, всё стоит"),
    "Medium": ("до пятницы", "нужно до пятницы"),
    "Low": ("не горит", "не к спеху"),
}

ENGLISH_GREETINGS: Final = ("Hi,", "Hello,", "Hi team,", "Good morning,", "Dear support,")
RUSSIAN_GREETINGS: Final = ("Привет,", "Добрый день,")
ENGLISH_CLOSINGS: Final = ("Thanks", "Thank you!", "Regards, {first}", "Best, {first}", "Cheers")
RUSSIAN_CLOSINGS: Final = ("Спасибо",)
ENGLISH_CONTEXTS: Final = (
    "It started this morning.", "It worked yesterday.", "We already tried a reboot.", "Same in Firefox and Chrome.",
    "Seen by two of us.",
)  # fmt: skip

FIRST_NAMES: Final = (
    "anna", "ben", "carla", "david", "elena", "frank", "grace", "henry", "irina", "jack", "karen", "liam", "maria",
    "nick", "olga", "paul", "rita", "sergey", "tina", "victor", "wendy", "ivan", "laura", "mike", "nina", "oscar",
)  # fmt: skip
LAST_NAMES: Final = (
    "smith", "brown", "miller", "jones", "wilson", "taylor", "clark", "lewis", "walker", "young", "king", "scott",
    "green", "baker", "adams", "nelson", "carter", "morris", "ivanov", "petrov", "volkov", "popov", "novak", "rossi",
)  # fmt: skip
MAILBOXES: Final = ("support", "admin", "office", "dev", "ops", "sales", "team", "it")
DOMAINS: Final = (
    "acme.com", "northwind.io", "example.org", "bluesky.net", "mycompany.com", "contoso.com", "brightlab.io",
    "greenfarm.org", "fastship.net", "cityhotel.com", "romashka.ru", "vector.ru",
)  # fmt: skip
ERROR_CODES: Final = ("403", "500", "502", "504", "E1042", "E2310", "0x80", "timeout")
