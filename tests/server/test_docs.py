"""The page that shows every field: it works without internet, and without a key."""

import re

from tests.server.support import served

ADDRESS = re.compile(r"""(?:src|href)=["']([^"']+)["']|url: '([^']+)'""")


async def test_the_page_loads_nothing_from_elsewhere_and_all_that_it_loads_is_served() -> None:
    async with served(api_key="secret") as server:
        page = await server.http.get("/docs")
        named = [found[1] or found[2] for found in ADDRESS.finditer(page.text)]
        files = {name: await server.http.get(page.url.join(name).path) for name in named}
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in re.sub(r"<!--.*?-->", "", page.text), "no address of another host stands in it"
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert {
        name.rpartition(".")[2]: reply.headers["content-type"].partition(";")[0] for name, reply in files.items()
    } == {
        "js": "text/javascript",
        "css": "text/css",
        "png": "image/png",
        "json": "application/json",
    }
    assert {reply.status_code for reply in files.values()} == {200}
    assert "SwaggerUIBundle" in files["docs/swagger-ui-bundle.js"].text
    assert ".swagger-ui" in files["docs/swagger-ui.css"].text
    assert not re.search(r"@import|url\(\W?(https?:)?//", files["docs/swagger-ui.css"].text)


async def test_the_page_sends_the_schema_to_no_judge() -> None:
    async with served() as server:
        assert '"validatorUrl": null' in (await server.http.get("/docs")).text
