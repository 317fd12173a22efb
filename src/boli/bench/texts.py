"""The text on which quality is measured if none is given: written for this purpose, free for any use."""

GLASS = """Glass is sand that has forgotten how to be stone. Heat it far enough and the grains let go of
one another; cool it quickly and they never find their places again. What is left is neither a
crystal nor quite a liquid, and light walks through it as if nobody were there.

玻璃是忘记了自己曾是石头的沙子。把它烧到足够热，沙粒便彼此松手；让它很快冷却，它们就再也找不到原来的位置。
剩下的东西既不是晶体，也不完全是液体，光从中间走过，好像那里什么也没有。

The first people who made it did not make windows. They made beads, and later small bottles for oil,
blue and yellow, no longer than a hand. A blower at the end of an iron pipe changed that: one breath,
and a drop of fire became a bowl. By the year 100 a glass cup in Rome cost about as much as a meal.

最早做玻璃的人并不做窗户。他们做珠子，后来做装油的小瓶，蓝的，黄的，不比手掌长。铁管那一头的吹制工改变了这一切：
一口气，一滴火就成了一只碗。

Engineers like it for another reason. A machine behind a pane can be watched while it works. If a
wheel slips you see which one; if nothing moves you see that too, and you stop guessing. Most of what
we build today is closed, and we are told that it is better so. Ask three questions of any closed box:
What goes in? What comes out? How would I notice if it were wrong? Where the third has no answer, cut
a window.

工程师喜欢它，还有另一个原因：隔着玻璃，机器干活的时候看得见。轮子打滑，你看得出是哪一个；什么都不动，你也看得出来，
于是不必再猜。对任何封闭的盒子都可以问三个问题：进去的是什么？出来的是什么？如果错了，我怎么会发现？
"""
