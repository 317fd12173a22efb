// The guided tour: what a good article on inference says, each step at the pane that shows it.
import type { View } from './view.svelte'

export interface Stop {
  /** The section that is shown. */
  section: string
  /** The stage that is selected on the way, if any. */
  stage?: string
  title: readonly [string, string]
  text: readonly [string, string]
}

const STOPS: Stop[] = [
  {
    section: 'film', title: ['One run, token by token', '一次运行，逐词元看'],
    text: [
      'This strip is the whole run: the prompt, then what the model wrote, tinted by how likely it thought each token. Choose a token and everything below goes to the moment it was chosen.',
      '这条胶片就是整次运行：前面是提示，后面是模型写出的内容，颜色越深概率越高。点任意词元，下面所有面板都会回到选出它的那一刻。',
    ],
  },
  {
    section: 'text', stage: 'tokenize', title: ['Text becomes numbers', '文本变成编号'],
    text: [
      'A chat is first put into the form the model was trained on; special tokens mark who speaks. Then the text is cut into pieces of the vocabulary, each with its number.',
      '对话先套进模型训练时用的模板，特殊词元标明说话人；随后文本被切成词表里的片段，每个片段对应一个编号。',
    ],
  },
  {
    section: 'machine', stage: 'embedding', title: ['A number becomes a vector', '编号变成向量'],
    text: [
      'The id picks one row of the embedding matrix. That row is the start of the residual stream: a vector that every layer reads and adds to.',
      '编号从嵌入矩阵取出一行。这一行就是残差流的起点：每一层都读它，并往上加。',
    ],
  },
  {
    section: 'machine', stage: 'qkv', title: ['Query, key, value', '查询、键、值'],
    text: [
      'After a norm, three matrices make a query, a key and a value. In grouped-query attention several query heads share one key and one value; that is why W_k and W_v are slivers, and why the cache is small.',
      '归一化之后，三个矩阵分别算出查询、键、值。分组查询注意力（GQA）里多个查询头共用一组键和值，所以 W_k、W_v 只是窄条，缓存也因此小得多。',
    ],
  },
  {
    section: 'machine', stage: 'softmax', title: ['Scores to weights', '分数变权重'],
    text: [
      'The query meets the key of every earlier position. Softmax turns the scores into weights that sum to one; the head’s output is the values, mixed by those weights.',
      '查询与之前每个位置的键逐一相乘，softmax 把分数变成和为 1 的权重，再按权重混合各位置的值，就是这个头的输出。',
    ],
  },
  {
    section: 'attention', title: ['Where a head looks', '一个头看向哪里'],
    text: [
      'Much attention rests on the first token, which serves as a place to look when there is nothing to look for. Hide it to see the rest. Weights say what was mixed in; they are no measure of importance.',
      '很多注意力都落在首词元上：没什么可看时，它就是个停放处。把它隐藏，才看得清其余部分。权重只说明混入了什么，并不衡量重要性。',
    ],
  },
  {
    section: 'machine', stage: 'gate_up', title: ['The MLP', '前馈网络'],
    text: [
      'Then each position is on its own: widened, gated, and narrowed again. Most of a layer’s weights are here, and most of its bytes.',
      '接下来每个位置各算各的：升维、门控、再降回来。一层的大部分权重和字节都在这里。',
    ],
  },
  {
    section: 'lens', title: ['The answer forms', '答案逐层成形'],
    text: [
      'Read the residual stream after each layer as if it were the last. Early layers guess at random words; at some layer the final token takes the lead and keeps it: the outline.',
      '把每一层之后的残差流当作最后一层来解读。前几层多是杂词；到某一层，最终词元取得领先并保持到底，这就是描边的起点。',
    ],
  },
  {
    section: 'sampler', stage: 'draw', title: ['One is drawn', '抽出一个'],
    text: [
      'The head gives a logit for every token of the vocabulary. Temperature and filters shape them, and one random number lands in one bucket. Move the sliders: the same number, other settings.',
      '输出头给词表里每个词元一个 logit，温度和各道筛子再加以调整，最后一个随机数落进某个格子。拖动滑块：同一个随机数，换一组设置会怎样。',
    ],
  },
  {
    section: 'cache', title: ['What is kept', '记住的东西'],
    text: [
      'Keys and values are kept so that nothing is computed twice. The books show what was predicted before, what was allocated, and what is used.',
      '键和值留在缓存里，免得重复计算。账目列出事先预测、实际分配和已经使用的字节数。',
    ],
  },
  {
    section: 'time', title: ['Milliseconds and bytes', '毫秒与字节'],
    text: [
      'For one token nearly every weight is read once, so the memory’s speed is the limit. Where a part is wider in time than in bytes, it is there that time is lost.',
      '生成一个词元几乎要把全部权重读一遍，所以瓶颈是内存带宽。哪一段在时间上比在字节上宽，时间就损失在那里。',
    ],
  },
]

/** The stops that this trace has something to show for. */
export function stopsOf(view: View): Stop[] {
  const has: Record<string, boolean> = {
    attention: view.document.decisions.some((decision) => decision.attention),
    lens: view.document.decisions.some((decision) => decision.lens),
  }
  return STOPS.filter((stop) => has[stop.section] ?? true)
}
