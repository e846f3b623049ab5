"""What a script in the page can tell of its looks."""

from __future__ import annotations

#: Contrast of every element with text of its own against what lies behind it (WCAG 2.2, 1.4.3), where under 4.5.
CONTRAST = """() => {
    const rgb = (text) => {
        const c = document.createElement('canvas').getContext('2d');
        c.fillStyle = '#000'; c.fillStyle = text; c.fillRect(0, 0, 1, 1);
        return [...c.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = (node) => {
        for (let n = node; n; n = n.parentElement) {
            const found = rgb(getComputedStyle(n).backgroundColor);
            if (found[3] > 250) return found;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll('body *')].filter(n => n.offsetParent !== null || n.closest('svg'))
        .filter(n => [...n.childNodes].some(c => c.nodeType === 3 && c.data.trim()) && n.tagName !== 'title')
        .filter(n => !n.closest('.view')).map(n => {
            const style = getComputedStyle(n);
            const [a, b] = [light(rgb(n.closest('svg') ? style.fill : style.color)), light(behind(n))];
            return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), n.textContent.trim().slice(0, 40)];
        }).filter(([ratio]) => ratio < 4.5);
}"""
OVERLAPS = """(scope) => {
    const all = [...document.querySelectorAll(scope + ' text.name, ' + scope + ' text.small')]
        .filter(n => n.getClientRects().length);
    const over = (p, q) => p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2;
    return all.flatMap((a, i) => all.slice(i + 1)
        .filter(b => over(a.getBoundingClientRect(), b.getBoundingClientRect()))
        .map(b => `${a.textContent} over ${b.textContent}`));
}"""
